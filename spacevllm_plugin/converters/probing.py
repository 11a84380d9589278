"""What the sources ask of media files: one by one as they come to them, or of all files before they begin."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..data import video
from ..data.media_index import MediaIndex, MediaIndexWriter
from ..data.video import MediaError, Shelf, VideoInfo, VideoRef
from .base import Report, Source, option


Probe = Callable[[VideoRef], VideoInfo]
Probed = VideoInfo | MediaError

_shelf: ContextVar[Shelf | None] = ContextVar("media index of the source that is being read", default=None)


def _look(ref: VideoRef) -> VideoInfo:
    return video.probe(ref, _shelf.get())


_probe: ContextVar[Probe] = ContextVar("probe", default=_look)


@dataclass(kw_only=True)
class ProbingSource(Source):
    """A source that looks at videos."""

    media_index: Path | None = option(
        "media index: what it knows of the videos is not looked up again, what is found out is added",
        Path,
        default=None,
    )

    _open: ClassVar[ExitStack | None] = None

    def __enter__(self) -> "ProbingSource":
        with ExitStack() as stack:
            if self.media_index is not None:
                token = _shelf.set(stack.enter_context(MediaIndexWriter(MediaIndex.at(self.media_index))))
                stack.callback(_shelf.reset, token)

            self._open = stack.pop_all()

        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def probe(ref: VideoRef) -> VideoInfo:
    """Size and clock of a video.

    Raises:
        MediaError: It cannot be used.
    """
    return _probe.get()(ref)


def wanted(source: Source) -> list[VideoRef]:
    """The videos that a source asks for, each once; none of them is looked at.

    Raises:
        SourceError: The raw files cannot be used.
    """
    refs: dict[VideoRef, None] = {}

    def note(ref: VideoRef) -> VideoInfo:
        refs[ref] = None
        raise MediaError(f"{ref.encode()}: not looked at yet")

    with _asking(note):
        for _ in source.samples(Report()):
            pass

    return list(refs)


@contextmanager
def knowing(answers: Mapping[VideoRef, Probed]) -> Iterator[None]:
    """In this block `probe` answers from here; what is not in it is looked at."""

    def answer(ref: VideoRef) -> VideoInfo:
        found = answers.get(ref)
        if isinstance(found, MediaError):
            raise found

        return _look(ref) if found is None else found

    with _asking(answer):
        yield


@contextmanager
def _asking(ask: Probe) -> Iterator[None]:
    token = _probe.set(ask)
    try:
        yield
    finally:
        _probe.reset(token)
