"""The published scorers, quirk by quirk; every value is worked out by hand.

The plain case throughout: truth [2, 6) of 10 frames with BOX, predicted [4, 9) with SHIFTED, whose IoU with BOX is 1/3.
"""

import json

import numpy as np
import pytest
from scoring import BOX, NAN, SHIFTED, answer, approx, constant, rec, stvg, vtg

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.schema import dump_row
from spacevllm_plugin.evaluation import Rules, evaluate
from spacevllm_plugin.evaluation.intervals import confidence_intervals
from spacevllm_plugin.evaluation.protocols import stalign, tubedetr


SHORTER = Rules(gt_end_shift=-1)
STCAT_FAMILY = ("stcat", "cgstvg", "tastvg")
PUBLISHED = ("tubedetr", *STCAT_FAMILY, "hcstvg", "stalign")


def score(protocol, row, *predictions, fill="linear", rules=Rules(), task="stvg"):
    return evaluate(task, [row], predictions, protocol, fill, rules)


def values(*args, **kwargs):
    """tIoU, vIoU, sIoU of the one item (IoU or GIoU for an image)."""
    (item,) = score(*args, **kwargs).items
    return [value for name, value in item.items() if name not in ("id", "group", "error")]


def group(result, name="all"):
    return result.report()["groups"][name]


def hc(span=(2, 6), **fields):
    return stvg(span, id="hcstvg1/test/1", **fields)


def hc_constant(span, box=BOX, **fields):
    return constant(span, box, id="hcstvg1/test/1", **fields)


class TestTubeDetr:
    def test_golden(self):
        # The grid at 10 fps: 0, 2, 4, 6, 8. In the truth 2, 4; in the hull [2, 9) 2, 4, 6, 8; in both spans 4.
        result = score("tubedetr", stvg(), constant((4, 9), SHIFTED))
        assert values("tubedetr", stvg(), constant((4, 9), SHIFTED)) == approx(2 / 7, 1 / 3 / 4, 1 / 3)
        assert result.warnings == ["tubedetr: only frames of the 5 fps grid counted on 1 item"]

    def test_no_warning_where_the_grid_changes_nothing(self):
        assert score("tubedetr", stvg(), constant((2, 6), SHIFTED)).warnings == []

    def test_a_frame_rate_that_does_not_divide(self):
        # 12 fps: floor(5 f / 12) rises at 3 (1.25), 5 (2.08), 8 (3.33), 10 (4.17); the last frame, 12, is never read.
        assert tubedetr.grid((0, 13), 12.0).tolist() == [0, 3, 5, 8, 10]
        # 29.97 fps: it rises at 5.994 k, so at 6, 12, 18.
        assert tubedetr.grid((0, 21), 29.97).tolist() == [0, 6, 12, 18]
        # Truth [4, 9): grid frames 5, 8. Predicted [4, 7): frame 5 of the hull's 5, 8.
        row = stvg((4, 9), num_frames=13, fps=12.0)
        assert values("tubedetr", row, constant((4, 7), frames=range(13))) == approx(3 / 5, 1 / 2, 1)

    def test_the_grid_starts_at_the_clip(self):
        # From 3 on: bucket 1, then 4 (2), 6 (3), 8 (4).
        assert tubedetr.grid((3, 10), 10.0).tolist() == [3, 4, 6, 8]
        assert tubedetr.grid((3, 4), 10.0).tolist() == [3]

    def test_more_than_200_frames_are_thinned(self):
        # 401 frames: number floor(401 j / 200): 0, 2, ..., 398 (198.995 -> 398 for j = 199 is 398.995).
        grid = tubedetr.grid((0, 402), 5.0)
        assert len(grid) == 200 and grid[[0, 1, 100, 199]].tolist() == [0, 2, 200, 398]

    def test_a_truth_between_grid_frames_scores_0_and_says_so(self):
        result = score("tubedetr", stvg((3, 4)), constant((3, 4)))
        assert values("tubedetr", stvg((3, 4)), constant((3, 4))) == [1.0, 0.0, 0.0]
        assert result.warnings == ["tubedetr: no frame of the 5 fps grid in the truth on 1 item"]

    def test_tube_up_to_the_last_frame(self):
        # Truth [7, 10): grid frame 8 only.
        assert values("tubedetr", stvg((7, 10)), constant((7, 10))) == [1.0, 1.0, 1.0]

    def test_stops_where_a_box_is_missing(self):
        prediction = constant((2, 6), frames=[4, 5])
        result = score("tubedetr", stvg(), prediction, fill="none")
        assert result.items[0] == {
            "id": "a",
            "group": None,
            "tIoU": None,
            "vIoU": None,
            "sIoU": None,
            "error": "no predicted box at frame 2",
        }
        assert result.report()["error"] == "tubedetr stops: item a: no predicted box at frame 2"
        # Off the grid no box is needed.
        assert values("tubedetr", stvg(), constant((2, 6), frames=[2, 4]), fill="none") == [1.0, 1.0, 1.0]

    def test_stops_below_5_fps(self):
        assert "4.0 frames a second" in score("tubedetr", stvg(fps=4.0), constant((2, 6))).items[0]["error"]

    def test_stops_without_a_prediction_in_that_group_and_overall(self):
        rows = [stvg(id="a", group="x"), stvg(id="b", group="y"), stvg(id="c", group="y")]
        failed = answer(id="c", status="failed", error="broken")
        report = evaluate("stvg", rows, [constant((2, 6), id="a"), failed], "tubedetr").report()
        assert report["groups"]["x"]["m_vIoU"] == 1.0
        nothing = dict.fromkeys(["m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5", "m_sIoU"])
        error = "item b: no prediction (and 1 more items)"
        assert report["groups"]["y"] == {"n": 2, **nothing, "error": error}
        assert report["groups"]["all"] == {"n": 3, **nothing, "error": error}


class TestStcatFamily:
    @pytest.mark.parametrize("protocol", STCAT_FAMILY)
    def test_golden(self, protocol):
        assert values(protocol, stvg(), constant((4, 9), SHIFTED)) == approx(2 / 7, 2 / 21, 1 / 3)
        assert score(protocol, stvg(), constant((4, 9), SHIFTED)).warnings == []

    @pytest.mark.parametrize("protocol", STCAT_FAMILY)
    def test_one_more_true_box_than_the_span(self, protocol):
        # The box of frame 5 is copied to 6; SHIFTED there: (4 + 1/3) / 5.
        prediction = answer((2, 6), [2, 3, 4, 5, 6], [BOX] * 4 + [SHIFTED])
        assert values(protocol, stvg(), prediction) == approx(1, 1, 13 / 15)
        (warning,) = score(protocol, stvg(), prediction).warnings
        assert warning == f"{protocol}: one more ground-truth box than frames of the span in m_sIoU on 1 item"
        # Where the annotation knows frame 6, its box counts.
        row = stvg(frames=[2, 3, 4, 5, 6], boxes=[BOX] * 4 + [SHIFTED])
        assert values(protocol, row, prediction) == approx(1, 1, 1)

    @pytest.mark.parametrize("protocol", STCAT_FAMILY)
    def test_vidstg_up_to_the_last_frame_is_one_short(self, protocol):
        # Truth [7, 10) is scored as [7, 9): predicted [7, 10) has 2 of 3; all three true boxes are in m_sIoU.
        assert values(protocol, stvg((7, 10)), constant((7, 10))) == approx(2 / 3, 2 / 3, 1)
        assert values(protocol, stvg((7, 10)), constant((7, 9))) == approx(1, 1, 1)
        rows = [stvg((7, 10), id=id) for id in "ab"] + [stvg(id="c")]
        result = evaluate(
            "stvg", rows, [constant((7, 10), id=id) for id in "ab"] + [constant((2, 6), id="c")], protocol
        )
        assert result.warnings == [f"{protocol}: ground truth one frame shorter on 2 items"]
        # Nothing is said where it does not matter.
        assert score(protocol, stvg((7, 10)), constant((0, 5))).warnings == []

    @pytest.mark.parametrize("protocol", STCAT_FAMILY)
    def test_hcstvg_a_perfect_tube_has_n_minus_1_of_n(self, protocol):
        # Scored as [2, 5), predicted [2, 6): 3 of 4 frames; the true boxes are those of all 4 frames.
        assert values(protocol, hc(), hc_constant((2, 6)), rules=SHORTER) == approx(3 / 4, 3 / 4, 1)
        warnings = score(protocol, hc(), hc_constant((2, 6))).warnings
        assert "HC-STVG without --gt-end-shift -1" in warnings[-1]

    def test_hcstvg_the_last_frame_is_never_read(self):
        row, prediction = hc((7, 10)), hc_constant((7, 10))
        result = score("stcat", row, prediction, rules=SHORTER)
        assert result.items[0]["error"].startswith("no predicted box at frame 9 (the published loader never reads")
        for protocol in ("cgstvg", "tastvg"):
            assert values(protocol, row, prediction, rules=SHORTER) == approx(2 / 3, 2 / 3, 2 / 3)
            (warning,) = score(protocol, row, prediction, rules=SHORTER).warnings[-1:]
            assert "clip's last frame" in warning

    def test_a_missing_box_on_vidstg(self):
        # Frame 6 is asked for, although the span ends before it.
        prediction = constant((2, 6), frames=range(6))
        for protocol in ("stcat", "cgstvg"):
            assert score(protocol, stvg(), prediction, fill="none").items[0]["error"] == "no predicted box at frame 6"

        assert values("tastvg", stvg(), prediction, fill="none") == approx(1, 1, 4 / 5)

    def test_a_missing_box_on_hcstvg(self):
        # Scored as [2, 5): boxes at 2 and 3 of the hull's 4 frames, and of the 4 true boxes.
        prediction = hc_constant((2, 6), frames=[2, 3])
        assert score("stcat", hc(), prediction, fill="none", rules=SHORTER).stops == [True]
        for protocol in ("cgstvg", "tastvg"):
            assert values(protocol, hc(), prediction, fill="none", rules=SHORTER) == approx(3 / 4, 2 / 4, 2 / 4)

    def test_one_frame_truth_on_hcstvg_is_empty(self):
        assert values("stcat", hc((3, 4)), hc_constant((3, 4)), rules=SHORTER) == approx(0, 0, 1)

    @pytest.mark.parametrize("protocol", STCAT_FAMILY)
    def test_a_video_without_a_prediction_is_left_out(self, protocol):
        rows = [stvg(id=id) for id in "ab"]
        result = evaluate("stvg", rows, [constant((2, 6))], protocol)
        assert (group(result)["n"], group(result)["m_vIoU"]) == (1, 1.0)
        assert result.warnings == [f"{protocol}: left out of the mean: no prediction on 1 item"]
        assert result.counts["missing"] == 1
        nobody = group(evaluate("stvg", rows, [], protocol))
        assert (nobody["n"], nobody["m_vIoU"], nobody["error"]) == (0, None, "no item is left in the mean")

    def test_the_loaders_drop_two_clips(self):
        row = hc(video="hcstvg/10__Gvp-cj3bmIY.mp4")
        assert score("stcat", row, hc_constant((2, 6))).counted == [False]
        assert score("hcstvg", row, hc_constant((2, 6))).counted == [True]


class TestHcStvg:
    def test_golden(self):
        assert values("hcstvg", stvg(), constant((4, 9), SHIFTED)) == [*approx(2 / 7, 2 / 21).expected, None]

    def test_a_missing_box_lowers_both(self):
        # Boxes at 4 only: one common frame of 7.
        prediction = constant((4, 9), SHIFTED, frames=[4])
        assert values("hcstvg", stvg(), prediction, fill="none")[:2] == approx(1 / 7, 1 / 21)
        result = score("hcstvg", stvg(), prediction, fill="none")
        assert result.warnings == ["hcstvg: frames without a predicted box lower tIoU, too, on 1 item"]
        # A box outside the predicted span is none.
        assert values("hcstvg", stvg(), constant((4, 9), frames=[2, 3]), fill="none")[:2] == [0.0, 0.0]

    def test_up_to_the_last_frame(self):
        assert values("hcstvg", stvg((7, 10)), constant((8, 10)))[:2] == approx(2 / 3, 2 / 3)

    def test_no_prediction_is_0_and_an_empty_box_is_0(self):
        assert values("hcstvg", stvg())[:2] == [0.0, 0.0]
        assert values("hcstvg", stvg(), constant((2, 6), (30, 10, 10, 30)))[:2] == [1.0, 0.0]
        assert values("hcstvg", stvg(), constant((2, 6), (0, 0, 0, 0)))[:2] == [1.0, 0.0]

    def test_it_has_no_spatial_score_and_says_so(self):
        figures = group(score("hcstvg", stvg(), constant((2, 6))))
        assert figures["m_sIoU"] is None and "no score over the true span" in figures["nulls"]["m_sIoU"]
        assert figures["m_vIoU"] == 1.0


class TestStAlign:
    def long(self, span, num_frames=100):
        return stvg(span, num_frames=num_frames)

    def test_golden(self):
        # 100 frames: every one is on the grid. Truth 20..40 -> .202, .404 of the clip (20/99, 40/99 rounded); predicted
        # 30..50 -> 30/99, 50/99. 11 frames have a box on both sides, 31 on either.
        found = values("stalign", self.long((20, 41)), constant((30, 51), SHIFTED, frames=range(100)))
        assert found == approx((0.404 - 30 / 99) / (50 / 99 - 0.202), 11 / 3 / 31, 1 / 3)

    def test_grid(self):
        assert stalign.grid((0, 199)).tolist() == list(range(0, 199, 2))
        assert stalign.grid((5, 8)).tolist() == [5, 6, 7]
        # Truth [10, 20): 10, 12, 14, 16, 18; predicted [10, 15): the first three.
        found = values("stalign", self.long((10, 20), 199), constant((10, 15), frames=range(199)))
        assert found == approx((14 / 198 - 0.051) / (0.096 - 10 / 198), 3 / 5, 1)

    def test_a_gap_does_not_count_and_no_common_frame_is_0(self):
        assert values("stalign", self.long((20, 41)), constant((60, 70), frames=range(100))) == [0.0, 0.0, 0.0]

    def test_the_threshold_counts(self):
        # 50 of 100 frames: vIoU is exactly 0.5.
        rows, prediction = self.long((0, 100)), constant((0, 50), frames=range(100))
        assert values("stalign", rows, prediction)[1] == 0.5
        assert group(score("stalign", rows, prediction))["vIoU@0.5"] == 1.0
        assert group(score("native", rows, prediction))["vIoU@0.5"] == 0.0

    def test_a_missing_box_is_in_the_union_only(self):
        # Truth 20..40, boxes at 20..29 of the predicted 20..40: 10 of 21; where both have one: 1.
        prediction = constant((20, 41), frames=range(20, 30))
        assert values("stalign", self.long((20, 41)), prediction, fill="none")[1:] == approx(10 / 21, 1)

    def test_the_same_single_frame_is_a_division_by_zero(self):
        result = score("stalign", stvg((0, 1)), constant((0, 1)))
        assert result.stops == [True] and "division by zero" in result.items[0]["error"]

    def test_left_out_and_unreadable(self):
        rows = [self.long((20, 41)).model_copy(update={"id": id}) for id in "abc"]
        unreadable = constant(None, frames=range(100), id="b", status="unreadable")
        result = evaluate("stvg", rows, [constant((20, 41), frames=range(100)), unreadable], "stalign")
        assert result.counted == [True, True, False]
        # Without a span the boxes count all the same, at all 100 points: 21 of them are the truth's.
        assert [item["vIoU"] for item in result.items] == [1.0, 0.21, None]
        assert [item["sIoU"] for item in result.items] == [1.0, 1.0, None]


class TestTrapsOfAll:
    @pytest.mark.parametrize("protocol", PUBLISHED)
    @pytest.mark.parametrize("span", [(6, 2), (4, 4), (0, 2), (6, 9)])
    def test_reversed_empty_or_disjoint_span(self, protocol, span):
        assert values(protocol, stvg(), constant(span))[:2] == [0.0, 0.0]

    @pytest.mark.parametrize("protocol", ["tubedetr", *STCAT_FAMILY])
    def test_one_frame_span(self, protocol):
        # Frame 4 of the truth's 4 (on TubeDETR's grid one of 2).
        assert values(protocol, stvg(), constant((4, 5))) == approx(
            1 / 4, 1 / 2 if protocol == "tubedetr" else 1 / 4, 1
        )

    @pytest.mark.parametrize("protocol", ["tubedetr", *STCAT_FAMILY])
    def test_unreadable_is_the_empty_span(self, protocol):
        for prediction in (constant(None, SHIFTED, status="unreadable"), constant(None, SHIFTED)):
            assert values(protocol, stvg(), prediction) == approx(0, 0, 1 / 3)
            assert score(protocol, stvg(), prediction).counts["unreadable"] == 1

    @pytest.mark.parametrize("protocol", ["tubedetr", *STCAT_FAMILY])
    @pytest.mark.parametrize("box", [(30, 10, 10, 30), (10, 30, 30, 10), (NAN, 10, 30, 30)])
    def test_nan_is_seen(self, protocol, box):
        # Flipped in one axis the area is -400: the union is 400 - 400 = 0, and so is the intersection.
        result = score(protocol, stvg(), constant((2, 6), box))
        assert result.items[0]["tIoU"] == 1.0 and result.items[0]["vIoU"] is None
        assert "frame 2" in result.items[0]["error"]
        figures = group(result)
        assert (figures["m_tIoU"], figures["m_vIoU"], figures["m_sIoU"]) == (1.0, None, None)
        assert figures["vIoU@0.3"] == 0.0  # NaN > 0.3 is false in the published code, too
        assert set(figures["nulls"]) == {"m_vIoU", "m_sIoU"} and "item a" in figures["nulls"]["m_vIoU"]

    @pytest.mark.parametrize("protocol", PUBLISHED)
    def test_twice_flipped_or_empty_boxes_are_0(self, protocol):
        for box in ((30, 30, 10, 10), (20, 20, 20, 20)):
            assert values(protocol, stvg(), constant((2, 6), box))[1] == 0.0

    def test_gt_end_shift_moves_the_truth_of_native(self):
        # [2, 5): predicted [2, 6) has 3 of 4.
        assert values("native", stvg(), constant((2, 6)), rules=SHORTER) == approx(3 / 4, 3 / 4, 1)
        result = score("native", stvg((3, 4)), constant((3, 4)), rules=SHORTER)
        assert group(result)["m_vIoU"] is None and "empty after --gt-end-shift" in group(result)["error"]


class TestRec:
    def one(self, protocol, box, truth=BOX):
        return score(protocol, rec(truth), answer(None, [0], [box]), task="rec")

    def test_mdetr_asks_for_the_generalised_iou(self):
        # 3.5 px each way: overlap 16.5^2 = 272.25, union 527.75 (IoU .516), hull 23.5^2 = 552.25.
        result = self.one("mdetr", (13.5, 13.5, 33.5, 33.5))
        assert result.items[0]["GIoU"] == pytest.approx(272.25 / 527.75 - 24.5 / 552.25, abs=1e-6)
        assert group(result) == {"n": 1, "Acc@0.5": 0.0}
        assert result.warnings == ["mdetr: generalised IoU turned a hit into a miss on 1 item"]
        assert group(self.one("native", (13.5, 13.5, 33.5, 33.5)))["Acc@0.5"] == 1.0
        assert (
            self.one("mdetr", (10, 10, 30, 20)).items[0]["GIoU"] == 0.5
            and group(self.one("mdetr", BOX))["Acc@0.5"] == 1
        )

    def test_mdetr_stops_at_flipped_and_missing_boxes(self):
        for predictions in ([], [answer(status="unreadable")], [answer(None, [0], [(30, 10, 10, 30)])]):
            assert evaluate("rec", [rec()], predictions, "mdetr").report()["groups"]["all"]["Acc@0.5"] is None

    def test_mattnet_does_not_count_an_overlap_of_one_pixel(self):
        line = (10, 10, 11, 30)
        result = self.one("mattnet", line, truth=line)
        assert result.items[0]["IoU"] == 0.0 and result.warnings == [
            "mattnet: an overlap of one pixel did not count on 1 item"
        ]
        assert self.one("mattnet", SHIFTED).items[0]["IoU"] == pytest.approx(1 / 3)

    def test_qwenvl(self):
        assert group(self.one("qwenvl", (10, 10, 30, 20)))["Acc@0.5"] == 1.0
        result = evaluate("rec", [rec(id=id) for id in "ab"], [answer(None, [0], [BOX])], "qwenvl")
        assert group(result) == {"n": 2, "Acc@0.5": 0.5}

    @pytest.mark.parametrize("protocol", ["mdetr", "mattnet", "qwenvl"])
    def test_a_box_that_leaves_the_image_counts_uncut(self, protocol):
        # Predicted (0, 0, 20, 20), the half inside of (-20, 0, 20, 20): a hit only where that is cut.
        row = rec((0, 0, 20, 20))
        row.target.source_frames, row.target.source_boxes = [0], [(-21, 0, 20, 20)]
        result = score(protocol, row, answer(None, [0], [(0, 0, 20, 20)]), task="rec")
        assert [value for name, value in result.items[0].items() if name.endswith("IoU")] == [pytest.approx(20 / 41)]
        assert result.warnings == [f"{protocol}: true boxes that leave the frame counted uncut on 1 item"]
        assert values("native", row, answer(None, [0], [(0, 0, 20, 20)]), task="rec") == [1.0]


class TestSeveralRightSpans:
    WINDOWS = [(0, 10), (20, 40)]

    def one(self, *spans):
        row = vtg((0, 10), windows=self.WINDOWS)
        windows = {"span_seconds": spans[0], "windows_seconds": list(spans)} if spans else {"status": "unreadable"}
        return group(evaluate("vtg", [row], [answer(**windows)]))

    def test_all_found(self):
        assert self.one((20, 40), (0, 10)) == {
            **{"n": 1, "mIoU": 1.0, "R1@0.3": 1.0, "R1@0.5": 1.0, "R1@0.7": 1.0},
            **{"mAP": 1.0, "mAP@0.5": 1.0, "mAP@0.75": 1.0},
        }

    def test_the_first_is_compared_with_the_best_window(self):
        figures = self.one((20, 30), (0, 10))
        assert (figures["mIoU"], figures["R1@0.5"], figures["R1@0.7"]) == (0.5, 1.0, 0.0)
        # At .5 both hit. Above, the second only: precision 1/2 at recall 1/2 -> 1/4. (1 + 9 / 4) / 10.
        assert (figures["mAP@0.5"], figures["mAP@0.75"], figures["mAP"]) == (1.0, 0.25, pytest.approx(0.325))

    def test_a_window_is_found_once(self):
        assert self.one((0, 10), (0, 10))["mAP"] == 0.5
        # A miss between two hits: precision 1 at recall 1/2, 2/3 at recall 1.
        assert self.one((0, 10), (50, 60), (20, 40))["mAP"] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)

    def test_only_ten_count_and_none_is_0(self):
        assert self.one(*[(50, 60)] * 10, (0, 10))["mAP"] == 0.0
        assert self.one()["mAP"] == 0.0

    def test_one_span_is_enough(self):
        row = vtg((0, 10), windows=self.WINDOWS)
        assert group(evaluate("vtg", [row], [answer(span_seconds=(20, 40))]))["mAP"] == 0.5

    def test_strict_threshold(self):
        result = evaluate("vtg", [vtg((0, 10))], [answer(span_seconds=(0, 5))], rules=Rules(strict=True))
        assert (group(result)["R1@0.3"], group(result)["R1@0.5"]) == (1.0, 0.0)


class TestConfidenceIntervals:
    def test_known_distribution(self):
        # Two items, 0 and 1: the mean is 0, 1/2, 1 with chances 1/4, 1/2, 1/4. A constant has no width.
        ends = confidence_intervals(np.array([[0.0, 0.3], [1.0, 0.3]]), 1000, seed=0)
        assert ends.tolist() == [[0.0, 1.0], approx(0.3, 0.3)]

    def test_width_of_a_mean(self):
        # Normal approximation: 1.96 * sqrt(.25 / 400) = .049.
        column = np.repeat([0.0, 1.0], 200)[:, None]
        ((low, high),) = confidence_intervals(column, 4000, seed=1)
        assert low == pytest.approx(0.5 - 0.049, abs=0.006) and high == pytest.approx(0.5 + 0.049, abs=0.006)
        assert confidence_intervals(column, 4000, seed=1).tolist() == [[low, high]]
        other = np.random.default_rng(0).normal(size=(50, 1))
        assert (confidence_intervals(other, 500, seed=1) != confidence_intervals(other, 500, seed=2)).all()

    def test_in_the_report(self):
        rows = [stvg(id=str(i)) for i in range(20)]
        result = evaluate("stvg", rows, [constant((2, 6), id=str(i)) for i in range(10)], "hcstvg")
        figures = result.report(resamples=200)["groups"]["all"]
        low, high = figures["ci"]["m_vIoU"]
        assert 0.1 < low < figures["m_vIoU"] == 0.5 < high < 0.9
        assert "m_sIoU" not in figures["ci"]


class TestCommandLine:
    def run(self, tmp_path, rows, predictions, *argv, code=0):
        for name, lines in (("gt.jsonl", rows), ("pred.jsonl", predictions)):
            (tmp_path / name).write_text("".join(dump_row(line) + "\n" for line in lines))

        paths = ["--gt", tmp_path / "gt.jsonl", "--pred", tmp_path / "pred.jsonl", "--out", tmp_path / "m.json"]
        assert main(["evaluate", *argv, *map(str, paths), "--items", str(tmp_path / "i.jsonl")]) == code
        return json.loads((tmp_path / "m.json").read_text())

    def test_quirks_and_errors_are_seen(self, tmp_path, capsys):
        rows = [stvg((7, 10), id=id) for id in "abc"]
        predictions = [constant((7, 10), id=id) for id in "abc"]
        report = self.run(tmp_path, rows, predictions, "stvg", "--protocol", "stcat", "--ci", "50", "--seed", "3")
        assert report["warnings"] == ["stcat: ground truth one frame shorter on 3 items"]
        assert report["ci"] == {"level": 0.95, "resamples": 50, "seed": 3}
        assert report["groups"]["all"]["ci"]["m_vIoU"] == approx(2 / 3, 2 / 3)
        out, err = capsys.readouterr()
        assert err == "warning: stcat: ground truth one frame shorter on 3 items\n"
        assert "0.6667 [0.6667, 0.6667]" in out

        report = self.run(tmp_path, rows, predictions[1:], "stvg", "--protocol", "tubedetr")
        assert report["error"] == "tubedetr stops: item a: no prediction"
        assert report["groups"]["all"]["m_vIoU"] is None
        out, err = capsys.readouterr()
        assert "none" in out and "tubedetr stops" in err
        assert "NaN" not in (tmp_path / "i.jsonl").read_text()

    def test_options_are_in_the_report(self, tmp_path):
        report = self.run(tmp_path, [stvg()], [constant((2, 6))], "stvg", "--gt-end-shift", "-1")
        assert report["gt_end_shift"] == -1 and report["groups"]["all"]["m_tIoU"] == 0.75
        report = self.run(tmp_path, [stvg()], [constant((3, 7))], "stvg", "--gt-shift", "1")
        assert report["gt_shift"] == 1 and report["groups"]["all"]["m_vIoU"] == 1.0
        report = self.run(tmp_path, [vtg((0, 10))], [answer(span_seconds=(0, 5))], "vtg", "--threshold", "gt")
        assert report["strict"] is True and report["groups"]["all"]["R1@0.5"] == 0.0

    @pytest.mark.parametrize(
        "argv, message",
        [
            (("vtg", "--protocol", "stcat"), "does not score vtg; choose from native"),
            (("stvg", "--protocol", "mdetr"), "choose from native, tubedetr, stcat"),
            (("rec", "--gt-end-shift", "-1"), "stvg only"),
            (("vtg", "--gt-shift", "1"), "--gt-shift is for stvg only"),
            (("stvg", "--gt-shift", "1" + "0" * 30), "frames at most, in either direction"),
            (("stvg", "--threshold", "gt"), "vtg only"),
        ],
    )
    def test_bad_usage_exits_2(self, argv, message, capsys):
        assert main(["evaluate", *argv, "--gt", "g", "--pred", "p"]) == 2
        assert message in capsys.readouterr().err
