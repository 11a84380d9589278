"""Sources whose rows hold facts of the video files."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..data.media_index import MediaIndex, MediaIndexWriter
from ..data.video import VideoInfo, VideoRef, probe
from .base import Source, option


@dataclass(kw_only=True)
class ProbingSource(Source):
    """A source that looks at videos."""

    _shelf: ClassVar[MediaIndexWriter | None] = None

    media_index: Path | None = option(
        "media index: what it knows of the videos is not looked up again, what is found out is added",
        Path,
        default=None,
    )

    def __enter__(self) -> "ProbingSource":
        if self.media_index is not None:
            self._shelf = MediaIndexWriter(MediaIndex.at(self.media_index))

        return self

    def __exit__(self, *exception: object) -> None:
        if self._shelf is not None:
            self._shelf.__exit__(*exception)

    def probe(self, ref: VideoRef) -> VideoInfo:
        """What a video holds; raises `MediaError`."""
        return probe(ref, self._shelf)
