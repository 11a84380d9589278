"""How rows are cut into batches: those about the same media together, so that these are read once."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from ..data.schema import AnnotationRow


# Rows about the same media are looked for among as many batches' rows at a time; usually they are neighbours anyway.
LOOK_AHEAD = 128
# Rows about the same media in one batch, where batches would be smaller: read once for these, they need less memory each.
MOST_TOGETHER = 32

T = TypeVar("T")


def batched(values: list[T], size: int) -> Iterator[list[T]]:
    """The values, `size` at a time."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def media_batches(rows: Iterable[T], size: int, media: Callable[[T], Hashable]) -> Iterator[list[T]]:
    """Batches of rows: `size` each where every row has its own media, a few more where some share theirs.

    Which rows are in a batch depends on the rows alone, and where those about the same media are neighbours, their order
    stays as it is.

    Args:
        rows: The rows.
        size: Rows of a batch.
        media: What a row shows; None where it shows nothing.
    """
    rows = iter(rows)
    while window := list(islice(rows, size * LOOK_AHEAD)):
        groups: dict[Hashable, list[T]] = {}
        for place, row in enumerate(window):
            shown = media(row)
            groups.setdefault(place if shown is None else (shown,), []).append(row)

        batch: list[T] = []
        for group in groups.values():
            for some in batched(group, max(size, MOST_TOGETHER)):
                batch += some
                if len(batch) >= size:
                    yield batch
                    batch = []

        if batch:
            yield batch


def media_of(row: AnnotationRow) -> Any:
    """The images and videos of a row, by name; None for a row without."""
    if not (row.images or row.videos):
        return None

    videos = (video if isinstance(video, str) else tuple(video) for video in row.videos or ())
    return tuple(row.images or ()), tuple(videos), row.media.clip if row.media else None
