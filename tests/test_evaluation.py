import json
import time

import numpy as np
import pytest
from scoring import BOX, INF, NAN, SHIFTED, answer, approx, constant, rec, scores, stvg, vtg

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.schema import RowError, dump_row
from spacevllm_plugin.evaluation import constant_baseline, evaluate


class TestStvg:
    def test_golden(self):
        # gt [2,6), predicted [4,9): common frames 4, 5; union frames 2..8 = 7; tIoU 2/7.
        # Box IoU 1/3 everywhere: vIoU = 2 * (1/3) / 7 = 2/21; sIoU = 1/3.
        assert scores("stvg", stvg(), constant((4, 9), SHIFTED)) == approx(2 / 7, 2 / 21, 1 / 3)

    def test_golden_moving(self):
        # gt BOX at 0 and the same 20 px to the right at 4, in between 5 px a frame; predicted BOX throughout.
        # Shift d: IoU = (20 - d) / (20 + d): d = 0, 5, 10, 15 -> 1, 3/5, 1/3, 1/7 at frames 0..3.
        # Predicted [1,4) of gt [0,4): tIoU 3/4; vIoU = (3/5 + 1/3 + 1/7) / 4; sIoU = (1 + 3/5 + 1/3 + 1/7) / 4.
        row = stvg((0, 4), frames=[0, 4], boxes=[BOX, (30, 10, 50, 30)])
        expected = approx(3 / 4, (3 / 5 + 1 / 3 + 1 / 7) / 4, (1 + 3 / 5 + 1 / 3 + 1 / 7) / 4)
        assert scores("stvg", row, constant((1, 4))) == expected

    def test_perfect_is_exactly_one(self):
        boxes = [(0.1 + i, 0.2, 33.3 + i, 44.4 + i / 7) for i in range(4)]
        row = stvg((6, 10), boxes=boxes)
        for fill in ("linear", "none"):
            assert scores("stvg", row, answer((6, 10), [6, 7, 8, 9], boxes), fill=fill) == [1.0, 1.0, 1.0]

    @pytest.mark.parametrize("span", [(6, 2), (4, 4), (0, 2), (6, 9)])
    def test_reversed_empty_or_disjoint_span(self, span):
        assert scores("stvg", stvg(), constant(span)) == [0.0, 0.0, 1.0]

    def test_one_frame_span(self):
        # One of the four frames: 1/4.
        assert scores("stvg", stvg(), constant((3, 4))) == approx(1 / 4, 1 / 4, 1)
        assert scores("stvg", stvg((3, 4)), constant((3, 4))) == [1.0, 1.0, 1.0]
        # One frame, then four: 1/4, with IoU 1/3: 1/12.
        assert scores("stvg", stvg((3, 4)), constant((2, 6), SHIFTED)) == approx(1 / 4, 1 / 12, 1 / 3)

    def test_tube_up_to_the_last_frame(self):
        # gt [7,10) of 10 frames, predicted [8,10): 2/3.
        assert scores("stvg", stvg((7, 10)), constant((8, 10))) == approx(2 / 3, 2 / 3, 1)

    @pytest.mark.parametrize(
        "box",
        [(30, 10, 10, 30), (30, 30, 10, 10), (20, 10, 20, 30), (0, 0, 0, 0), (NAN, 10, 30, 30), (-INF, 10, INF, 30)]
        + [(NAN,) * 4, (INF,) * 4],
    )
    @pytest.mark.parametrize("fill", ["linear", "none"])
    @pytest.mark.filterwarnings("error")
    def test_unusable_box_earns_nothing(self, box, fill):
        assert scores("stvg", stvg(), constant((2, 6), box), fill=fill) == [1.0, 0.0, 0.0]

    def test_one_unusable_box_among_others(self):
        # gt [2,6): frame 3 is NaN, frame 4 reversed; the other two are right: 2/4.
        boxes = [BOX, (NAN,) * 4, BOX[2:] + BOX[:2], BOX]
        for fill in ("linear", "none"):
            assert scores("stvg", stvg(), answer((2, 6), [2, 3, 4, 5], boxes), fill=fill) == approx(1, 0.5, 0.5)

    def test_missing_boxes_add_0_without_fill(self):
        # Boxes at 2 and 5 of gt [2,6): sIoU 2/4. Predicted [2,5) has only that of 2: vIoU 1/4. tIoU 3/4.
        # The frame 9 lies outside and is not looked at.
        prediction = constant((2, 5), frames=[2, 5, 9])
        assert scores("stvg", stvg(), prediction, fill="none") == approx(3 / 4, 1 / 4, 2 / 4)
        assert scores("stvg", stvg(), prediction, fill="linear") == approx(3 / 4, 3 / 4, 1)

    def test_no_boxes_at_all(self):
        for fill in ("linear", "none"):
            assert scores("stvg", stvg(), answer((2, 6)), fill=fill) == [1.0, 0.0, 0.0]
            assert scores("stvg", stvg(), answer((2, 6), [], []), fill=fill) == [1.0, 0.0, 0.0]

    def test_sparse_truth_is_held_inside_the_span(self):
        # One box, at frame 4, stands for all of [2,6).
        assert scores("stvg", stvg(frames=[4]), constant((2, 6))) == [1.0, 1.0, 1.0]

    def test_truth_outside_the_span_steers_the_interpolation(self):
        # Boxes at 0 and 8, 40 px apart: 5 px a frame, as the prediction has them at each frame of [2,6).
        row = stvg(frames=[0, 8], boxes=[(0, 10, 20, 30), (40, 10, 60, 30)])
        boxes = [(5 * i, 10, 5 * i + 20, 30) for i in (2, 3, 4, 5)]
        assert scores("stvg", row, answer((2, 6), [2, 3, 4, 5], boxes)) == approx(1, 1, 1)

    def test_sparse_prediction_is_interpolated_and_held(self):
        # Predicted at 3 and 5: held at 2 (as 3), halfway at 4. Shifts against BOX: 0, 0, 5, 10 px.
        # IoU 1, 1, 3/5, 1/3: mean (2 + 3/5 + 1/3) / 4.
        expected = (2 + 3 / 5 + 1 / 3) / 4
        prediction = answer((2, 6), [3, 5], [BOX, SHIFTED])
        assert scores("stvg", stvg(), prediction) == approx(1, expected, expected)

    def test_span_in_seconds_goes_through_the_time_line(self):
        # 0.24 s -> frame 2, 0.58 s -> frame 6 at 10 fps.
        assert scores("stvg", stvg(), constant(None, span_seconds=(0.24, 0.58))) == [1.0, 1.0, 1.0]
        # Frames win over seconds: [2,4) of [2,6).
        assert scores("stvg", stvg(), constant((2, 4), span_seconds=(0.2, 0.6)))[0] == 0.5
        # Cut to the clip: [0,10) -> [2,6).
        assert scores("stvg", stvg(clip=(2, 6)), constant(None, span_seconds=(0.0, 1.0)))[0] == 1.0

    @pytest.mark.parametrize("span", [(0.6, 0.2), (0.4, 0.4), (NAN, 0.6), (0.2, INF)])
    def test_unusable_seconds_are_not_stretched_to_a_frame(self, span):
        assert scores("stvg", stvg(), constant(None, span_seconds=span)) == [0.0, 0.0, 1.0]

    def test_unreadable_keeps_the_boxes_score(self):
        for prediction in (
            constant(None, SHIFTED, status="unreadable"),
            constant((2, 6), SHIFTED, status="unreadable"),
            constant(None, SHIFTED),  # "ok", but there is no span
        ):
            result = evaluate("stvg", [stvg()], [prediction])
            assert result.items[0]["error"] == "unreadable"
            assert result.counts == {"scored": 0, "missing": 0, "unreadable": 1, "failed": 0}
            assert scores("stvg", stvg(), prediction) == approx(0, 0, 1 / 3)

        assert scores("stvg", stvg(), answer(status="unreadable")) == [0.0, 0.0, 0.0]

    def test_missing_and_failed_count_as_zero(self):
        rows = [stvg(id=id) for id in "abcd"]
        failed = constant((2, 6), id="b", status="failed", error="v.mp4: no video stream")
        result = evaluate("stvg", rows, [constant((2, 6)), failed, constant(None, id="c")])
        assert [item["error"] for item in result.items] == [None, "v.mp4: no video stream", "unreadable", "missing"]
        assert result.counts == {"scored": 1, "missing": 1, "unreadable": 1, "failed": 1}
        # tIoU 1, 0, 0, 0 and sIoU 1, 0, 1 (its boxes), 0.
        assert result.report()["groups"] == {
            "all": {"n": 4, "m_tIoU": 0.25, "m_vIoU": 0.25, "vIoU@0.3": 0.25, "vIoU@0.5": 0.25, "m_sIoU": 0.5}
        }

    def test_agrees_with_sets_of_frames(self):
        def box_iou(a, b):
            inter = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)

        def random_tube(rng):
            start, end = sorted(int(i) for i in rng.choice(31, 2, replace=False))
            corners = rng.uniform((0, 0, 50, 25), (50, 25, 100, 50), size=(end - start, 4))
            return {start + i: box for i, box in enumerate(corners.tolist())}

        rng = np.random.default_rng(0)
        for _ in range(200):
            truth, tube = random_tube(rng), random_tube(rng)
            both, either = truth.keys() & tube.keys(), truth.keys() | tube.keys()
            total = sum(box_iou(truth[frame], tube[frame]) for frame in both)
            row = stvg((min(truth), max(truth) + 1), boxes=list(truth.values()), num_frames=30)
            prediction = answer((min(tube), max(tube) + 1), list(tube), list(tube.values()))
            expected = approx(len(both) / len(either), total / len(either), total / len(truth))
            assert scores("stvg", row, prediction, fill="none") == expected

    def test_thresholds_are_strict(self):
        # Half of the frames with perfect boxes: vIoU is exactly 0.5; 3 of 10 exactly 0.3.
        half, third = stvg((0, 10)), stvg((0, 10), id="b")
        result = evaluate("stvg", [half, third], [constant((0, 5)), constant((0, 3), id="b")])
        figures = result.report()["groups"]["all"]
        assert [item["vIoU"] for item in result.items] == [0.5, 0.3]
        assert (figures["vIoU@0.3"], figures["vIoU@0.5"]) == (0.5, 0.0)

    def test_groups_are_not_pooled(self):
        rows = [stvg(id="a", group="declarative"), stvg(id="b", group="declarative"), stvg(id="c", group="question")]
        groups = evaluate("stvg", rows, [constant((2, 6), id="c")]).report()["groups"]
        assert {name: (g["n"], g["m_vIoU"]) for name, g in groups.items()} == {
            "declarative": (2, 0.0),
            "question": (1, 1.0),
            "all": (3, pytest.approx(1 / 3)),  # over items; the mean of the groups would be 1/2
        }


class TestVtg:
    # Against 0..10 s: 3 s -> 0.3, 5 s -> 0.5, 7 s -> 0.7, each reached and not passed.
    @pytest.mark.parametrize("end, reached", [(3, (1, 0, 0)), (5, (1, 1, 0)), (7, (1, 1, 1)), (2.9, (0, 0, 0))])
    def test_thresholds_are_inclusive(self, end, reached):
        figures = evaluate("vtg", [vtg((0, 10))], [answer(span_seconds=(0, end))]).report()["groups"]["all"]
        r1 = dict(zip(("R1@0.3", "R1@0.5", "R1@0.7"), reached))
        assert figures == {"n": 1, "mIoU": pytest.approx(end / 10), **r1}

    def test_seconds_are_not_rounded_to_frames(self):
        # 1.23..2.34 and 1.80..3.00: 0.54 / 1.77.
        assert scores("vtg", vtg((1.23, 2.34)), answer(span_seconds=(1.8, 3.0))) == approx(0.54 / 1.77)
        # Only frames given: [10,20) at 10 fps is 1..2 s.
        assert scores("vtg", vtg((1.0, 2.0)), answer((10, 20))) == [1.0]

    @pytest.mark.parametrize("span", [(5, 1), (3, 3), (NAN, 5), (NAN, NAN), (10, 12), (0, INF)])
    def test_unusable_span(self, span):
        assert scores("vtg", vtg((1, 5)), answer(span_seconds=span)) == [0.0]

    def test_no_answer_stays_in_the_mean(self):
        rows = [vtg((1, 5), id=id) for id in "abcd"]
        predictions = [answer(span_seconds=(1, 5)), answer(id="b", status="unreadable"), answer(id="c")]
        result = evaluate("vtg", rows, predictions)
        assert result.report()["groups"]["all"]["mIoU"] == 0.25
        assert result.counts == {"scored": 1, "missing": 1, "unreadable": 2, "failed": 0}


class TestRec:
    def test_hit_at_exactly_half(self):
        # 10 of 20 px high: 200 / 400.
        assert scores("rec", rec(), answer(None, [0], [(10, 10, 30, 20)])) == [0.5]
        result = evaluate("rec", [rec()], [answer(None, [0], [(10, 10, 30, 20)])])
        assert result.report()["groups"]["all"] == {"n": 1, "Acc@0.5": 1.0}

    def test_misses_stay_in_the_denominator(self):
        rows = [rec(id=id) for id in "abcdef"]
        predictions = [
            answer(None, [0], [BOX]),
            answer(None, [0], [SHIFTED], id="b"),  # 1/3
            answer(None, [0], [BOX], id="c", status="unreadable"),
            answer(None, [0], [(NAN, 10, 30, 30)], id="d"),
            answer(id="e"),
        ]
        result = evaluate("rec", rows, predictions)
        assert [item["IoU"] for item in result.items] == approx(1, 1 / 3, 0, 0, 0, 0)
        assert result.report()["groups"]["all"]["Acc@0.5"] == pytest.approx(1 / 6)
        assert result.counts == {"scored": 3, "missing": 1, "unreadable": 2, "failed": 0}


class TestMatching:
    def test_a_mixture_is_scored_task_by_task(self):
        rows = [stvg(id="s"), vtg((1, 5), id="v"), rec(id="r")]
        predictions = [answer((10, 50), id="v"), answer(None, [0], [BOX], id="r"), answer((2, 6), id="x")]
        for task, n_scored in (("stvg", 0), ("vtg", 1), ("rec", 1)):
            result = evaluate(task, rows, predictions)
            assert (len(result.items), result.counts["scored"]) == (1, n_scored)
            assert result.unknown_ids == ["x"]

    def test_repeated_ids_are_refused(self):
        with pytest.raises(RowError, match="two prediction rows have the id a"):
            evaluate("stvg", [stvg()], [constant((2, 6)), constant((2, 6))])

        with pytest.raises(RowError, match="two annotation rows have the id a"):
            evaluate("stvg", [stvg(), vtg((1, 5))], [])

    def test_nothing_to_score_is_refused(self):
        with pytest.raises(RowError, match="no vtg row among the 1 annotations"):
            evaluate("vtg", [stvg()], [])

    @pytest.mark.parametrize(
        "frames, boxes, message",
        [([0, 1], [BOX], "2 frames but 1 boxes"), ([1, 0], [BOX] * 2, "increase"), ([1, 1], [BOX] * 2, "increase")],
    )
    def test_boxes_that_do_not_fit_their_frames_are_refused(self, frames, boxes, message):
        with pytest.raises(RowError, match=f"prediction a: .*{message}"):
            evaluate("stvg", [stvg()], [answer((2, 6), frames, boxes)])


class TestConstantBaseline:
    def test_finds_the_answer_that_is_always_right(self):
        rows = [stvg((5, 15), id=str(i), num_frames=20, boxes=[(25, 12.5, 75, 37.5)] * 10) for i in range(3)]
        chance = constant_baseline(rows)
        assert chance["span"] == chance["pair"]["span"] == [0.25, 0.75]
        assert chance["box"] == chance["pair"]["box"] == [0.25, 0.25, 0.75, 0.75]
        assert (chance["m_tIoU"], chance["m_vIoU"], chance["m_sIoU"]) == (1.0, 1.0, 1.0)

    def test_is_what_the_scorer_gives_that_answer_and_no_random_one_beats_it(self):
        rng = np.random.default_rng(0)
        rows = []
        for i in range(40):
            start = int(rng.integers(0, 40))
            x, y = rng.uniform(0, 70), rng.uniform(0, 20)
            span = (start, start + int(rng.integers(5, 20)))
            boxes = [(x, y, x + 30, y + 30)] * (span[1] - span[0])
            rows.append(stvg(span, id=str(i), num_frames=60, boxes=boxes))

        def score(span, box):
            pixels = [(box[0] * 100, box[1] * 50, box[2] * 100, box[3] * 50)]
            frames = (round(span[0] * 60), round(span[1] * 60))
            return evaluate("stvg", rows, [answer(frames, [0], pixels, id=row.id) for row in rows]).report()

        chance = constant_baseline(rows)
        assert score(chance["span"], chance["box"])["groups"]["all"]["m_tIoU"] == pytest.approx(chance["m_tIoU"])
        assert score(chance["span"], chance["box"])["groups"]["all"]["m_sIoU"] == pytest.approx(chance["m_sIoU"])
        assert score(**chance["pair"])["groups"]["all"]["m_vIoU"] == pytest.approx(chance["m_vIoU"])
        for _ in range(200):
            span = np.sort(rng.integers(0, 25, 2)) / 24
            box = np.sort(rng.uniform(0, 1, (2, 2)), axis=0).reshape(-1)
            figures = score(span, box)["groups"]["all"]
            assert all(figures[key] <= chance[key] for key in ("m_tIoU", "m_vIoU", "m_sIoU"))

    def test_500_rows_take_seconds(self):
        rows = [stvg((i % 30, i % 30 + 20), id=str(i), num_frames=60) for i in range(500)]
        start = time.process_time()
        constant_baseline(rows)
        assert time.process_time() - start < 20

    def test_nothing_to_do_is_refused(self):
        with pytest.raises(RowError, match="no stvg row"):
            constant_baseline([vtg((1, 5))])


class TestCommandLine:
    def run(self, tmp_path, rows, predictions, *argv):
        for name, lines in (("gt.jsonl", rows), ("pred.jsonl", predictions)):
            (tmp_path / name).write_text("".join(dump_row(line) + "\n" for line in lines))

        paths = ["--gt", tmp_path / "gt.jsonl", "--pred", tmp_path / "pred.jsonl", "--out", tmp_path / "m.json"]
        assert main(["evaluate", *argv, *map(str, paths), "--items", str(tmp_path / "i.jsonl")]) == 0
        items = [json.loads(line) for line in (tmp_path / "i.jsonl").read_text().splitlines()]
        return json.loads((tmp_path / "m.json").read_text()), items

    def test_stvg(self, tmp_path, capsys):
        rows = [stvg(id="a", group="declarative"), stvg(id="b", group="question")]
        predictions = [constant((2, 6), frames=[2, 4]), constant((2, 6), id="x")]
        report, items = self.run(tmp_path, rows, predictions, "stvg", "--fill", "none")
        # Boxes at 2 of 4 frames.
        hit = {"n": 1, "m_tIoU": 1.0, "m_vIoU": 0.5, "vIoU@0.3": 1.0, "vIoU@0.5": 0.0, "m_sIoU": 0.5}
        assert report == {
            "task": "stvg",
            "protocol": "native",
            "groups": {
                "declarative": hit,
                "question": {key: int(key == "n") for key in hit},
                "all": {"n": 2, "m_tIoU": 0.5, "m_vIoU": 0.25, "vIoU@0.3": 0.5, "vIoU@0.5": 0.0, "m_sIoU": 0.25},
            },
            "counts": {"scored": 1, "missing": 1, "unreadable": 0, "failed": 0},
        }
        assert items == [
            {"id": "a", "group": "declarative", "tIoU": 1.0, "vIoU": 0.5, "sIoU": 0.5, "error": None},
            {"id": "b", "group": "question", "tIoU": 0.0, "vIoU": 0.0, "sIoU": 0.0, "error": "missing"},
        ]

        out, err = capsys.readouterr()
        assert "protocol native, fill none" in out
        assert "scored 1, missing 1, unreadable 0, failed 0" in out
        header, first, *_ = [line for line in out.splitlines() if line.startswith(("group", "declarative"))]
        assert header.split() == ["group", "n", "m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5", "m_sIoU"]
        assert len(header) == len(first)
        assert err == "warning: 1 predictions belong to no annotation row, for instance x\n"

    def test_vtg_and_rec(self, tmp_path):
        rows = [vtg((0, 10), id="v"), rec(id="r", group="testA")]
        predictions = [answer(span_seconds=(0, 5), id="v"), answer(None, [0], [BOX], id="r")]
        report, items = self.run(tmp_path, rows, predictions, "vtg")
        assert report["groups"] == {"all": {"n": 1, "mIoU": 0.5, "R1@0.3": 1.0, "R1@0.5": 1.0, "R1@0.7": 0.0}}
        assert items == [{"id": "v", "group": None, "IoU": 0.5, "error": None}]
        report, items = self.run(tmp_path, rows, predictions, "rec")
        assert report["groups"] == {name: {"n": 1, "Acc@0.5": 1.0} for name in ("testA", "all")}
        assert items == [{"id": "r", "group": "testA", "IoU": 1.0, "error": None}]

    def test_what_cannot_be_scored_is_one_line(self, tmp_path, capsys):
        (tmp_path / "gt.jsonl").write_text(dump_row(rec()) + "\n")
        (tmp_path / "pred.jsonl").write_text('{"id": "a", "boxes": 3}\n')
        argv = ["evaluate", "rec", "--gt", str(tmp_path / "gt.jsonl"), "--pred"]
        for name, message in (("pred.jsonl", "pred.jsonl:1 (id a): boxes"), ("nowhere.jsonl", "nowhere.jsonl")):
            assert main([*argv, str(tmp_path / name)]) == 1
            err = capsys.readouterr().err
            assert message in err and err.count("\n") == 1

    @pytest.mark.parametrize("content", [b"\xff\xfe", None])
    def test_what_is_no_text_is_one_line(self, tmp_path, capsys, content):
        path = tmp_path / "pred.jsonl"
        path.mkdir() if content is None else path.write_bytes(content)
        (tmp_path / "gt.jsonl").write_text(dump_row(rec()) + "\n")
        assert main(["evaluate", "rec", "--gt", str(tmp_path / "gt.jsonl"), "--pred", str(path)]) == 1
        err = capsys.readouterr().err
        assert "pred.jsonl" in err and err.count("\n") == 1

    @pytest.mark.parametrize("option", ["--out", "--items"])
    def test_an_input_is_not_overwritten(self, tmp_path, capsys, option):
        for name, row in (("gt", rec()), ("pred", answer(None, [0], [BOX]))):
            (tmp_path / f"{name}.jsonl").write_text(dump_row(row) + "\n")

        before = (tmp_path / "pred.jsonl").read_bytes()
        argv = ["evaluate", "rec", "--gt", str(tmp_path / "gt.jsonl"), "--pred", str(tmp_path / "pred.jsonl")]
        assert main([*argv, option, str(tmp_path / "pred.jsonl")]) == 2
        assert "is the file of --pred" in capsys.readouterr().err
        assert (tmp_path / "pred.jsonl").read_bytes() == before
