"""What is grounded: a prompt and its media."""

from dataclasses import dataclass

from ..backbones.prompter import ImagePlan
from ..data.plan import VideoPlan
from ..data.schema import Media


@dataclass(frozen=True)
class GroundingItem:
    """One prompt, ready to be generated from.

    Attributes:
        id: The row's id.
        task: stvg, vtg, rec or qa.
        token_ids: The prompt with all visual and query tokens, up to where the answer starts.
        images: Its images.
        videos: Its videos.
        plans: Images and videos in order of appearance, which is that of their queries.
        media: Size that boxes are given in; the file's own size where None.
    """

    id: str
    task: str
    token_ids: list[int]
    images: list[ImagePlan]
    videos: list[VideoPlan]
    plans: list[ImagePlan | VideoPlan]
    media: Media | None = None
