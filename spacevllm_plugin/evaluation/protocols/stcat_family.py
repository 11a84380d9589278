"""What STCAT, CG-STVG and TA-STVG share: every native frame, a truth cut at the clip's last frame, its boxes one more."""

from functools import partial
from pathlib import PurePosixPath

import numpy as np

from ...data.schema import AnnotationRow
from ..answer import Answer
from ..iou import raw_box_iou, span_iou
from ..truth import TrueTube, is_hcstvg
from . import native
from .comparison import changed, nan_reason
from .scorer import Rules, Scored, Scorer, left_out, stopped
from .source import on_source_boxes


# HC-STVG v1 clips that the loaders drop.
DROPPED = {"10__Gvp-cj3bmIY.mp4", "1_aMYcLyh9OhU.mkv"}


def has_hcstvg_rules(row: AnnotationRow, rules: Rules) -> bool:
    """Whether HC-STVG's rules hold rather than VidSTG's: by the row's id, else where the true spans' ends are shifted."""
    return is_hcstvg(row) or (rules.gt_end_shift != 0 and not row.id.startswith("vidstg"))


def score(row: AnnotationRow, answer: Answer, rules: Rules, stops_vidstg: bool, stops_hcstvg: bool) -> Scored:
    """Scores of one tube.

    The truth's end is cut at the clip's last frame and then taken as exclusive: a tube that runs to the end of the clip is
    one frame short. Its boxes run to that end inclusive, and sIoU averages over all of them: VidSTG's last one is VidOR's at
    that frame, else the one before. vIoU is divided by the frames of the hull of both spans. Of HC-STVG's clips the last
    frame is never read, so it has no predicted box; true boxes are cut at the frame's right and lower edge, or an assertion
    stops at them. A video without a prediction is left out; an unreadable answer is the empty span.

    Args:
        row: The annotation.
        answer: The prediction.
        rules: The user's choices.
        stops_vidstg: A true box without a predicted one stops the script on VidSTG; else it adds 0.
        stops_hcstvg: The same on HC-STVG; and so does a true box that leaves the frame to the right or below.
    """
    hcstvg = has_hcstvg_rules(row, rules)
    if _is_dropped(row, hcstvg):
        return left_out(native.STVG_COLUMNS, "dropped by the published loader")

    tube, (first, last) = TrueTube.of(row, rules.gt_shift, rules.gt_end_shift), answer.span_frames
    size = (row.media.width, row.media.height)
    if hcstvg and stops_hcstvg and (tube.key_boxes[:, 2:] > size).any():
        return stopped(native.STVG_COLUMNS, "the loader asserts that no true box leaves the frame right or below")

    if answer.outcome in ("missing", "failed"):
        return left_out(native.STVG_COLUMNS, "no prediction")

    last_frame = tube.clip[1] - 1
    end = min(tube.end, last_frame)
    frames = np.arange(tube.start, end + 1)
    known = answer.has_box_at(frames)
    unread = hcstvg & (frames == last_frame)
    known &= ~unread
    if not known.all() and (stops_hcstvg if hcstvg else stops_vidstg):
        why = " (the published loader never reads a clip's last frame)" if unread.any() else ""
        return stopped(native.STVG_COLUMNS, f"no predicted box at frame {frames[~known][0]}{why}")

    ious = np.zeros(len(frames))
    true_boxes = tube.boxes_at(frames[known])
    if hcstvg:
        true_boxes[:, 2:] = np.minimum(true_boxes[:, 2:], size)

    ious[known] = raw_box_iou(answer.boxes_at(frames[known]), true_boxes)
    common = (max(first, tube.start) <= frames) & (frames < min(last, end))
    hull = max(last, end) - min(first, tube.start)
    values = {
        "tIoU": span_iou((first, last), (tube.start, end)),
        "vIoU": float(ious[common].sum() / max(hull, 1)),
        "sIoU": float(ious.sum() / max(len(frames), 1)),
    }

    plain = native.score_tube(tube, answer).values
    quirks = []
    if end < tube.end and changed(values, plain, "tIoU", "vIoU"):
        quirks.append("ground truth one frame shorter")

    if len(frames) > tube.end - tube.start and changed(values, plain, "sIoU"):
        quirks.append("one more ground-truth box than frames of the span in m_sIoU")

    if unread.any() and changed(values, plain, "vIoU", "sIoU"):
        quirks.append("no predicted box at the clip's last frame, which the published loader never reads,")

    if hcstvg and rules.gt_end_shift == 0:
        quirks.append("HC-STVG without --gt-end-shift -1, which the published loader amounts to,")

    return Scored(values, nan_reason(ious, frames), quirks=tuple(quirks))


def _is_dropped(row: AnnotationRow, hcstvg: bool) -> bool:
    """Whether the loaders leave the item out: two clips, or a VidSTG span that ends behind its clip, not with the video."""
    if hcstvg:
        return isinstance(row.videos[0], str) and PurePosixPath(row.videos[0]).name in DROPPED

    clip_end = row.media.frame_range[1]
    return row.target.span_frames[1] == clip_end < row.media.num_frames


def scorers(stops_vidstg: bool, stops_hcstvg: bool) -> dict[str, Scorer]:
    """The family member that stops, or not, where a predicted box is missing."""
    own = partial(score, stops_vidstg=stops_vidstg, stops_hcstvg=stops_hcstvg)
    return {"stvg": Scorer(native.STVG_COLUMNS, on_source_boxes(own, behind=1), native.stvg_figures)}
