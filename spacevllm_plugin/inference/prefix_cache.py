"""Prefixes of media that were just asked about, for the next question about them; bounded by the memory they take."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from ..backbones.prompter import ImagePlan, Prompter
from ..data.plan import VideoPlan
from ..data.storage import is_ranged
from ..data.video import frame_files, identity
from ..modeling.prefix import VideoPrefix
from .items import GroundingItem


CHUNK = 1 << 20


class PrefixCache:
    """Keeps what was used last, up to a limit; may be asked from several threads at once.

    A prefix is never changed once it is read, so that any number of replies may go on from it at the same time.

    Args:
        most_bytes: Memory for all prefixes together. One that takes more is read, used and not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[Hashable, VideoPrefix] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Memory of what is kept."""
        with self._lock:
            return self._sum()

    def _sum(self) -> int:
        return sum(prefix.nbytes for prefix in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, read: Callable[[], VideoPrefix]) -> VideoPrefix:
        """A prefix by its key, read if it is not there.

        Args:
            key: See `content_key`.
            read: Reads it.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]

        prefix = read()  # not behind the lock: somebody else's video may be there already
        with self._lock:
            if prefix.nbytes <= self.most_bytes:
                self._kept[key] = prefix
                self._kept.move_to_end(key)
                while self._sum() > self.most_bytes:
                    self._kept.popitem(last=False)

        return prefix


def content_key(prompter: Prompter, item: GroundingItem) -> Hashable:
    """What a prompt's prefix depends on beside the model: its tokens, what its media hold, and how these are seen.

    A name says nothing: a file may be replaced, and each upload gets the same one.

    Args:
        prompter: The backbone's prompter.
        item: A prompt with media.

    Raises:
        MediaError: A picture cannot be read.
    """
    tokens = tuple(item.token_ids[: prompter.prefix_length(item.token_ids, item.plans[-1])])
    settings = type(prompter).__name__, repr(prompter.options), repr(prompter.grounding)
    return tokens, settings, tuple(_content(prompter, plan) for plan in item.plans)


def _content(prompter: Prompter, plan: VideoPlan | ImagePlan) -> Hashable:
    digest = hashlib.blake2b(digest_size=32)
    if isinstance(plan, ImagePlan):
        pictures = prompter.pictures(plan).numpy()
        digest.update(pictures.tobytes())
        return "image", plan.width, plan.height, pictures.shape, digest.digest()

    files = frame_files(plan.ref)
    for path in [plan.ref.path] if files is None else [files[frame] for frame in plan.shown]:
        if is_ranged(path):  # its state is known without reading it
            digest.update(repr(identity(path)).encode())
            continue

        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)

        digest.update(b"/")

    seen = tuple(map(tuple, plan.groups)), tuple(plan.seconds), plan.clip
    return "video", plan.width, plan.height, seen, digest.digest()
