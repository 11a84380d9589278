"""A tube: boxes at some native frames, linear in between, held at the edges."""

from itertools import chain

import numpy as np


def box_array(boxes: list[tuple[float, float, float, float]]) -> np.ndarray:
    """Boxes as an array of shape (n, 4), float64: the same as `np.array`, in half its time."""
    return np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4)


def interpolate_boxes(
    frames: list[int] | np.ndarray, boxes: list | np.ndarray, wanted: list[int] | np.ndarray
) -> np.ndarray:
    """Boxes at the wanted frames.

    Args:
        frames: Increasing native frames that carry a box, at least one.
        boxes: One box of four numbers for each of them; any format that may be interpolated linearly.
        wanted: Native frames, in any order; before the first or after the last known frame its box is held.

    Returns:
        Array of shape (len(wanted), 4), float64.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    frames = np.asarray(frames)
    # Within the known frames: this holds the edges, and leaves nothing to interpolate where every frame is known.
    wanted = np.minimum(np.maximum(wanted, frames[0]), frames[-1])
    place = np.searchsorted(frames, wanted)
    if (frames[place] == wanted).all():
        return boxes[place]

    # Of the halves, which gives the same digits: the difference of two boxes of any size is a number then.
    return 2 * np.stack([np.interp(wanted, frames, boxes[:, k] / 2) for k in range(4)], axis=-1)
