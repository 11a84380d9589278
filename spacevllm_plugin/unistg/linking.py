"""Linking: the boxes of one object in many frames become one tube."""

from dataclasses import dataclass, field

import numpy as np

from ..evaluation.iou import box_iou
from .rows import AnnotatedFrame, Box


@dataclass
class _Track:
    """A tube that grows: `members` maps a position in the frames to the index of a detection there."""

    box: Box
    seconds: float
    score: float = 0.0
    members: dict[int, int] = field(default_factory=dict)


def link_tube(
    frames: list[AnnotatedFrame], label: int = 0, min_iou: float = 0.3, max_gap: float = 1.0
) -> dict[int, int]:
    """The tube of one object.

    Greedy, frame by frame: among the open tubes and the frame's boxes of the object, the pair with the highest IoU (of
    the tube's last box) is linked first, then the next among the rest, down to `min_iou`; of equal ones the tube that
    began earlier and the box listed first. A box that is left begins a tube; a tube is open until it has had no box for
    more than `max_gap` seconds. The tube with the highest sum of scores wins, of equal ones the first: a thing that is
    seen long and surely.

    Args:
        frames: In order of time.
        label: The object.
        min_iou: Least IoU of two linked boxes.
        max_gap: Longest time without a box within a tube, in seconds.

    Returns:
        Position in `frames` -> index of the detection there; empty if the object is nowhere.
    """
    tracks: list[_Track] = []
    for position, frame in enumerate(frames):
        now = frame.seconds[0]
        indexes = [i for i, detection in enumerate(frame.detections) if detection.label == label]
        live = [track for track in tracks if now - track.seconds <= max_gap + 1e-6]
        owner = _match([track.box for track in live], [frame.detections[i].box for i in indexes], min_iou)
        for number, index in enumerate(indexes):
            detection = frame.detections[index]
            if number in owner:
                track = live[owner[number]]
            else:
                track = _Track(detection.box, now)
                tracks.append(track)

            track.box, track.seconds = detection.box, now
            track.score += detection.score
            track.members[position] = index

    return max(tracks, key=lambda track: track.score).members if tracks else {}


def _match(a: list[Box], b: list[Box], min_iou: float) -> dict[int, int]:
    """Pairs of highest IoU first: index in `b` -> index in `a`."""
    if not a or not b:
        return {}

    iou = box_iou(np.asarray(a)[:, None], np.asarray(b)[None])
    owner: dict[int, int] = {}
    for flat in np.argsort(-iou, axis=None, kind="stable").tolist():
        i, j = divmod(flat, len(b))
        if iou[i, j] < min_iou:
            break

        if j not in owner and i not in owner.values():
            owner[j] = i

    return owner
