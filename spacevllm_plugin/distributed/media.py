"""Media files examined and probed by many workers."""

from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

from ..check.library import CRASHED, Examined
from ..check.media import Fault, Job, examine
from ..data.video import MediaError, VideoInfo, VideoRef, probe
from .pieces import Piece, chunks
from .rounds import DIED, Answer, Crew, work_off
from .worker import Work


# Files of a piece: headers take milliseconds, decoding takes seconds.
HEADERS_AT_ONCE, DECODED_AT_ONCE = 32, 4

Hire = Callable[[Callable[[], Work]], Crew]
Tell = Callable[[str], None]


def make_examining() -> Work:
    """See `examine`."""
    return lambda piece: Answer([examine(job) for job in piece.items])


def make_probing() -> Work:
    """See `probe`."""
    return lambda piece: Answer([_probed(ref) for ref in piece.items])


def examine_shared(hire: Hire, retries: int, tell: Tell, jobs: list[Job]) -> Iterator[Examined]:
    """Examine media; a file that kills each process that reads it is broken.

    Args:
        hire: Makes the crew, from what makes the work.
        retries: Further tries of what died.
        tell: Gets a line for each.
        jobs: The media.
    """
    size = DECODED_AT_ONCE if jobs[0].reading else HEADERS_AT_ONCE
    for job, answer, problem in _each(jobs, size, hire(make_examining), retries, tell):
        if answer is None:
            answer = Fault("media-broken", f"{job.source}: {CRASHED if problem == DIED else problem}")

        yield job, answer


def probe_shared(hire: Hire, retries: int, tell: Tell, refs: list[VideoRef]) -> dict[VideoRef, VideoInfo | MediaError]:
    """Probe videos; the arguments are those of `examine_shared`."""
    return {
        ref: MediaError(f"{ref.encode()}: {problem}") if answer is None else answer
        for ref, answer, problem in _each(refs, HEADERS_AT_ONCE, hire(make_probing), retries, tell)
    }


def _each(items: list[Any], size: int, crew: Crew, retries: int, tell: Tell) -> Iterator[tuple[Any, Any, str | None]]:
    """Each item with its answer, or with None and the reason."""
    pieces = (Piece(f"{number:06d}", (some,)) for number, some in enumerate(chunks(items, size)))
    with tqdm(total=len(items), unit="file", desc="media") as bar:
        for piece, answer in work_off(pieces, crew, retries, tell):
            for item, value in zip(piece.items, answer.value or [None] * len(piece.items), strict=True):
                yield item, value, answer.problem
                bar.update()


def _probed(ref: VideoRef) -> VideoInfo | MediaError:
    try:
        return probe(ref)
    except MediaError as err:
        return err
