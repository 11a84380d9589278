"""`tubedetr`: TubeDETR's evaluation (as mended in May 2022): frames on a 5 fps grid, an error where a box is missing."""

import numpy as np

from ...data.schema import AnnotationRow
from ..answer import Answer
from ..iou import raw_box_iou, span_iou
from ..truth import TrueTube, is_hcstvg
from . import native
from .comparison import changed, nan_reason
from .scorer import Rules, Scored, Scorer, stopped
from .source import on_source_boxes


GRID_FPS = 5
MAX_FRAMES = 200


def grid(clip: tuple[int, int], fps: float) -> np.ndarray:
    """Native frames that count: the first of each fifth of a second, thinned to 200; the clip's last frame is never read."""
    frames = np.arange(clip[0], max(clip[1] - 1, clip[0] + 1))
    buckets = (frames * (GRID_FPS / fps)).astype(np.int64)
    frames = frames[np.flatnonzero(np.diff(buckets, prepend=buckets[0] - 1) > 0)]
    if len(frames) > MAX_FRAMES:
        frames = frames[np.arange(MAX_FRAMES) * len(frames) // MAX_FRAMES]

    return frames


def score(row: AnnotationRow, answer: Answer, rules: Rules) -> Scored:
    """TIoU over half-open native frames; the sums and the denominators of vIoU and sIoU count grid frames only.

    vIoU is divided by the grid frames of the hull of both spans. Stops at a video without a prediction and at a grid frame of
    the truth without a predicted box. An unreadable answer is the empty span. HC-STVG's truth is a frame late there, even
    where that takes it out of the clip (`gt_shift` 1).
    """
    if answer.outcome in ("missing", "failed"):
        return stopped(native.STVG_COLUMNS, "no prediction")

    if row.media.fps < GRID_FPS:
        return stopped(native.STVG_COLUMNS, f"{row.media.fps} frames a second, less than the grid's {GRID_FPS}")

    tube, (first, last) = TrueTube.of(row, rules.gt_shift, rules.gt_end_shift), answer.span_frames
    on_grid = grid(tube.clip, row.media.fps)
    frames = on_grid[(tube.start <= on_grid) & (on_grid < tube.end)]
    known = answer.has_box_at(frames)
    if not known.all():
        return stopped(native.STVG_COLUMNS, f"no predicted box at frame {frames[~known][0]}")

    ious = raw_box_iou(answer.boxes_at(frames), tube.boxes_at(frames))
    common = (max(first, tube.start) <= frames) & (frames < min(last, tube.end))
    hull = (min(first, tube.start) <= on_grid) & (on_grid < max(last, tube.end))
    values = {
        "tIoU": span_iou((first, last), (tube.start, tube.end)),
        "vIoU": float(ious[common].sum() / max(hull.sum(), 1)),
        "sIoU": float(ious.sum() / max(len(frames), 1)),
    }
    plain = native.score_tube(tube, answer).values
    quirks = []
    if changed(values, plain, "vIoU", "sIoU"):
        quirks.append(
            "only frames of the 5 fps grid counted" if len(frames) else "no frame of the 5 fps grid in the truth"
        )

    if is_hcstvg(row) and rules.gt_shift == 0:
        quirks.append("HC-STVG without --gt-shift 1, which the published preprocessing amounts to,")

    return Scored(values, nan_reason(ious, frames), quirks=tuple(quirks))


SCORERS = {"stvg": Scorer(native.STVG_COLUMNS, on_source_boxes(score), native.stvg_figures)}
