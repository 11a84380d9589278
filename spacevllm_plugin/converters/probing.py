"""What the sources ask of media files: one by one as they come to them, or of all files before they begin."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from ..data import video
from ..data.video import MediaError, VideoInfo, VideoRef
from .base import Report, Source


Probe = Callable[[VideoRef], VideoInfo]
Probed = VideoInfo | MediaError

_probe: ContextVar[Probe] = ContextVar("probe", default=video.probe)


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

        return video.probe(ref) if found is None else found

    with _asking(answer):
        yield


@contextmanager
def _asking(ask: Probe) -> Iterator[None]:
    token = _probe.set(ask)
    try:
        yield
    finally:
        _probe.reset(token)
