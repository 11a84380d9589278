"""What the referring-expression sets share: one image, one box, one sentence."""

from dataclasses import dataclass

from ..data.schema import Media
from .base import Report, Sample, Source, option, text_key
from .boxes import Box, fit_tube
from .text import tidy


@dataclass(kw_only=True)
class ExpressionSource(Source):
    """A set of sentences, each naming one box of an image (rec rows)."""

    folder = "coco"

    image_folder: str = option(
        "folder of the images below the media folder (default: %(default)s)", str, "coco/train2014"
    )

    @property
    def media_folder(self) -> str:
        """What the paths in the rows start with."""
        return self.image_folder

    def expression(
        self, report: Report, sample_id: str, image: str, size: tuple[int, int], sentence: str, box: Box
    ) -> Sample | None:
        """One sample, or None if it had to be dropped.

        Args:
            report: Takes what is dropped.
            sample_id: The sample's id.
            image: File name in `image_folder`.
            size: Width and height of the image in pixels.
            sentence: As annotated.
            box: xyxy in pixels.
        """
        query = tidy(sentence)
        if not query:
            return report.drop("no_sentence", sample_id)

        repairs: set[str] = set()
        target = fit_tube([(0, box)], *size, repairs)
        if not target.boxes:
            return report.drop("empty_box", sample_id)

        return Sample(
            id=sample_id,
            task="rec",
            group=self.dataset,
            query=query,
            medium=image,
            media=Media(width=size[0], height=size[1]),
            target=target,
            repairs=repairs,
        )


@dataclass(kw_only=True)
class NamedExpressionSource(ExpressionSource):
    """A file in a shape that several sets share, so that the user names the set."""

    dataset_name: str = option("name of the data set, for the ids and dataset_info.json")
    split: str = option("name of the split, likewise")

    @property
    def dataset(self) -> str:
        """Name of the entry in dataset_info.json."""
        return f"{self.dataset_name}_{self.split}"

    def named_id(self, image: str, box: Box, sentence: str) -> str:
        """A sample's id, from the image's file name, the box as annotated, and the sentence."""
        place = "-".join(f"{value:g}" for value in box)
        return f"{self.dataset_name}/{self.split}/{image}/{place}/{text_key(tidy(sentence))}"
