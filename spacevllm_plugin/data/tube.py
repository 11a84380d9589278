"""A tube: boxes at some native frames, linear in between, held at the edges."""

import numpy as np


def interpolate_boxes(frames: list[int], boxes: list, wanted: list[int] | np.ndarray) -> np.ndarray:
    """Boxes at the wanted frames.

    Args:
        frames: Increasing native frames that carry a box.
        boxes: One box of four numbers for each of them; any format that may be interpolated linearly.
        wanted: Native frames, in any order; before the first or after the last known frame its box is held.

    Returns:
        Array of shape (len(wanted), 4), float64.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    frames, wanted = np.asarray(frames), np.asarray(wanted)
    place = np.searchsorted(frames, wanted).clip(max=len(frames) - 1)
    if (frames[place] == wanted).all():
        return boxes[place]

    return np.stack([np.interp(wanted, frames, boxes[:, k]) for k in range(4)], axis=-1)
