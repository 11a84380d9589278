"""The builder's rules, worked out by hand, and the four stages on videos whose tubes are known."""

import json
import tracemalloc

import pytest
from unistg_parts import (
    ColourDetector,
    annotated,
    frame,
    read_lines,
    refined,
    rejected,
    server,
    vtg,
    write_lines,
)

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.prompts import ANSWERS, INSTRUCTIONS
from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.data.span_parser import read_span
from spacevllm_plugin.data.synthetic import SynthConfig, write_set
from spacevllm_plugin.unistg.annotator import Annotator
from spacevllm_plugin.unistg.filter import Filter
from spacevllm_plugin.unistg.linking import link_tube
from spacevllm_plugin.unistg.refiner import Refiner
from spacevllm_plugin.unistg.rows import Kept, Rejected
from spacevllm_plugin.unistg.stage import StageError, run_stage


def one(stage, row):
    """A stage's answer for one row."""
    ((row_id, result),) = stage.process(iter([row]))
    assert row_id == row.id
    return result


# Linking.

LEFT, LEFT_MOVED, RIGHT = (0, 0, 10, 10), (2, 0, 12, 10), (50, 0, 60, 10)


def test_links_by_overlap_not_by_order_or_score():
    """IoU of LEFT and LEFT_MOVED is 80 / 120."""
    frames = [
        frame(0, (0, 0.9, *LEFT), (0, 0.8, *RIGHT)),
        frame(1, (0, 0.9, *RIGHT), (0, 0.95, *LEFT_MOVED)),
        frame(2, (1, 0.99, *LEFT), (0, 0.9, *LEFT)),
    ]
    # left: .9 + .95 + .9, right: .8 + .9; the box of label 1 is another object's.
    assert link_tube(frames) == {0: 0, 1: 1, 2: 1}


def test_the_best_pair_is_linked_first():
    """Both boxes of frame 1 overlap the tube; the second overlaps more, the first begins a tube of its own."""
    frames = [frame(0, (0, 0.5, *LEFT)), frame(1, (0, 0.9, 4, 0, 14, 10), (0, 0.5, 1, 0, 11, 10))]
    assert link_tube(frames) == {0: 0, 1: 1}


def test_overlap_below_the_threshold_is_not_linked():
    frames = [frame(0, (0, 0.5, *LEFT)), frame(1, (0, 0.6, *LEFT_MOVED))]
    assert link_tube(frames, min_iou=0.67) == {1: 0}  # .667 is less
    assert link_tube(frames, min_iou=0.66) == {0: 0, 1: 0}


def test_a_gap_closes_a_tube():
    frames = [frame(n, *([(0, 0.5, *LEFT)] if n not in (1, 2) else [])) for n in range(4)]
    # 3 frames at 25 a second from one box to the next: .12 s.
    assert link_tube(frames, max_gap=0.12) == {0: 0, 3: 0}
    assert link_tube(frames, max_gap=0.11) == {0: 0}
    assert link_tube([frame(0), frame(1, (1, 0.9, *LEFT))]) == {}


# Refiner.


def moving(first, last, **options):
    """Frames `first` to `last` with one box of the subject each."""
    return [frame(n, (0, 0.5, *LEFT), **options) for n in range(first, last + 1)]


def test_span_is_tightened_to_the_tube():
    frames = [*(frame(n) for n in range(20)), *moving(20, 79), frame(80, (1, 0.9, *LEFT)), frame(81)]
    result = one(Refiner(), annotated("a", frames))
    assert result.row.span_frames == (20, 80)
    assert result.row.span_seconds == pytest.approx((0.8, 3.2))
    assert [f.frame for f in result.row.frames] == list(range(20, 80))
    assert all(f.subject == 0 for f in result.row.frames)
    assert result.counts == {"frames": 60, "boxes on tubes": 60}


@pytest.mark.parametrize(
    "first, last, reason",
    [
        (251, 300, None),  # 50 frames at 25 a second, 2 s, though 12.04 - 10.04 is a little less in floating point
        (251, 299, "too_short"),
        (0, 2999, None),  # 120 s
        (0, 3000, "too_long"),
    ],
)
def test_two_seconds_and_two_minutes_are_kept(first, last, reason):
    result = one(Refiner(), annotated("a", moving(first, last), span=(0, 4000), num_frames=4000))
    assert getattr(result, "reason", None) == reason
    assert isinstance(result, Kept if reason is None else Rejected)


# Filter.


def tube(*frames):
    return refined("src/1", list(frames), query="the man runs", span=(0, 100))


def test_a_crowded_frame_loses_its_box():
    man = (0, 0.5, *LEFT)
    crowd = [(1, 0.4, 20 + i, 0, 30 + i, 10) for i in range(3)]
    row = tube(
        frame(10, man, subject=0),
        frame(11, *crowd, man, subject=3),  # 4 boxes
        frame(12, *crowd[:2], man, subject=2),  # 3 boxes
        frame(13),
        frame(14, man, subject=0),
    )
    result = one(Filter(), row)
    assert result.row.target.frames == [10, 12, 14]
    assert result.row.target.span_frames == (10, 15)
    assert result.counts == {"frames dropped": 1, "boxes": 3}
    assert one(Filter(count="subject"), row).row.target.frames == [10, 11, 12, 14]
    assert one(Filter(max_boxes=2, min_coverage=0), row).row.target.frames == [10, 14]
    assert one(Filter(max_boxes=2), row).reason == "sparse"  # 2 of 5
    assert one(Filter(min_coverage=0.6), row).row.target.frames == [10, 12, 14]  # 3 of 5
    assert one(Filter(min_coverage=0.61), row).reason == "sparse"


def test_all_frames_crowded():
    boxes = [(0, 0.5, i, 0, 10 + i, 10) for i in range(4)]
    assert one(Filter(), tube(frame(1, *boxes, subject=0), frame(2, *boxes, subject=0))).reason == "crowded"


@pytest.mark.parametrize(
    "second, reason",
    [
        ((0, 0, 20, 10), None),  # 200 of 100: exactly twice
        ((0, 0, 20.1, 10), "area_jump"),
        ((0, 0, 5, 10), None),
        ((0, 0, 4.9, 10), "area_jump"),
    ],
)
def test_area_may_double_or_halve(second, reason):
    result = one(Filter(), tube(frame(1, (0, 0.5, *LEFT), subject=0), frame(2, (0, 0.5, *second), subject=0)))
    assert getattr(result, "reason", None) == reason


def test_area_is_compared_with_the_box_before_also_over_a_gap():
    frames = [frame(1, (0, 0.5, *LEFT), subject=0), frame(2), frame(3, (0, 0.5, 0, 0, 30, 10), subject=0)]
    assert one(Filter(), tube(*frames)).reason == "area_jump"


def test_the_row_that_comes_out():
    row = tube(frame(50, (0, 0.5, *LEFT), subject=0), frame(51, (0, 0.5, 1, 0, 11, 10), subject=0))
    made = one(Filter(), row).row
    assert (made.task, made.group, made.query, made.videos) == ("stvg", "unistg", "the man runs", ["v.mp4"])
    assert made.target.span_frames == (50, 52) and made.target.span_seconds == pytest.approx((2.0, 2.08))
    assert made.target.boxes == [(0, 0, 10, 10), (1, 0, 11, 10)]
    assert made.media.num_frames == 500
    assert "the man runs" in made.messages[0].content and made.messages[0].content.count("<video>") == 1
    assert read_span(made.messages[1].content) == (2.0, 2.1)
    # Content decides the id: not the run, not the place in the file, not the detector's boxes.
    assert made.id.startswith("unistg/src/1/")
    again = tube(frame(50, (0, 0.6, *LEFT), subject=0))
    assert one(Filter(), again).row.id == made.id
    other = refined("src/1", list(row.frames), query="the man walks", span=(0, 100))
    assert one(Filter(), other).row.id != made.id


def test_rows_are_phrased_in_several_ways_that_their_ids_choose():
    rows = [refined(f"src/{i}", [frame(50, (0, 0.5, *LEFT), subject=0)]) for i in range(40)]
    made = [one(Filter(), row).row for row in rows]
    for message, known in ((0, INSTRUCTIONS), (1, ANSWERS)):
        assert len({row.messages[message].content for row in made}) == len(known["stvg"])

    assert [one(Filter(), row).row for row in rows] == made


# Files.


def refine(data, out, *more):
    return main(["unistg", "refine", "--data", str(data), "--out", str(out), *more])


def test_nothing_is_lost(tmp_path, capsys):
    good = annotated("good", moving(0, 60)).model_dump_json(exclude_none=True)
    lines = [
        good,
        annotated("short", moving(0, 9)).model_dump_json(exclude_none=True),
        "",
        "no json {",
        '{"id": "\\ud800"}',  # half a character, which UTF-8 has no bytes for
        json.dumps(vtg("vtg")),  # of the stage before the stage before
        good,  # the same line
        annotated("good", moving(0, 70)).model_dump_json(exclude_none=True),  # the same id
        annotated("last", moving(0, 60)).model_dump_json(exclude_none=True),
        "[" * 100_000,
    ]
    data, out = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "deep" / "out.jsonl"
    data.write_text(data.read_text(), encoding="utf-8-sig")
    assert refine(data, out) == 0
    assert [row["id"] for row in read_lines(out)] == ["good", "last"]
    rejects = read_lines(tmp_path / "deep" / "out.jsonl.rejects.jsonl")
    assert [reject["reason"] for reject in rejects] == [
        *("too_short", "bad_row", "bad_row", "bad_row", "duplicate_id", "duplicate_id", "bad_row"),
    ]
    assert rejects[0]["row"] == json.loads(lines[1]) and rejects[1]["row"] == "no json {"
    assert rejects[2]["row"] == {"id": "\ud800"}
    assert "in.jsonl:4" in rejects[1]["detail"] and "in.jsonl:6 (id vtg)" in rejects[3]["detail"]
    counts = json.loads((tmp_path / "deep" / "out.jsonl.counts.json").read_text())
    assert (counts["in"], counts["out"]) == (9, 2)
    assert counts["rejected"] == {"bad_row": 4, "duplicate_id": 2, "no_subject": 0, "too_short": 1, "too_long": 0}
    assert counts["totals"] == {"boxes on tubes": 122, "frames": 122}
    assert counts["options"] == {"min_seconds": 2.0, "max_seconds": 120.0, "link_iou": 0.3, "link_gap": 1.0}
    assert sorted(path.name for path in out.parent.iterdir()) == [
        *("out.jsonl", "out.jsonl.counts.json", "out.jsonl.rejects.jsonl"),
    ]
    table = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert (table["in"][1], table["out"][1]) == ("9", "2")


def test_the_input_is_not_overwritten(tmp_path, capsys):
    data = write_lines(tmp_path / "in.jsonl", [annotated("a", moving(0, 60)).model_dump_json(exclude_none=True)])
    before = data.read_bytes()
    assert refine(data, tmp_path / "." / "in.jsonl", "--overwrite") == 2
    assert "is the file of --data" in capsys.readouterr().err and data.read_bytes() == before


def test_a_finished_run_is_not_done_again_nor_written_over(tmp_path, capsys):
    data = write_lines(tmp_path / "in.jsonl", [annotated("a", moving(0, 60)).model_dump_json(exclude_none=True)])
    out = tmp_path / "out.jsonl"
    assert refine(data, out) == 0
    stamp = out.stat().st_mtime_ns
    assert refine(data, out) == 0 and out.stat().st_mtime_ns == stamp
    assert refine(data, out, "--min-seconds", "3") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert refine(data, out, "--min-seconds", "3", "--overwrite") == 0
    assert out.read_text() == "" and rejected(out) == {"a": "too_short"}
    assert "no row is left" in capsys.readouterr().err
    out.with_name("out.jsonl.counts.json").unlink()
    assert refine(data, out) == 1  # a file of somebody else


class Interrupted(Refiner):
    """Stops after the first row."""

    def process(self, rows):
        for row in rows:
            yield row.id, self._refine(row)
            raise StageError("stopped")


def test_an_interrupted_run_goes_on_with_the_same_options_only(tmp_path, capsys):
    rows = [annotated(name, moving(0, 60)).model_dump_json(exclude_none=True) for name in "abc"]
    data, out = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with pytest.raises(StageError, match="stopped"):
        run_stage(Interrupted(), data, out)

    assert not out.exists()
    assert refine(data, out, "--link-iou", "0.5") == 1
    assert "link_iou 0.3, now 0.5" in capsys.readouterr().err
    # Rows that have come in meanwhile are done, those that are finished are not.
    write_lines(data, [annotated("new", moving(0, 60)).model_dump_json(exclude_none=True), *rows])
    assert refine(data, out) == 0
    assert [row["id"] for row in read_lines(out)] == ["new", "a", "b", "c"]


def test_two_runs_do_not_write_one_file(tmp_path, capsys):
    data = write_lines(tmp_path / "in.jsonl", [annotated("a", moving(0, 60)).model_dump_json(exclude_none=True)])
    out = tmp_path / "out.jsonl"

    class Meanwhile(Refiner):
        def process(self, rows):
            assert refine(data, out) == 1
            yield from super().process(rows)

    run_stage(Meanwhile(), data, out)
    assert "another run is writing it" in capsys.readouterr().err
    assert len(read_lines(out)) == 1


def test_contents_are_not_held_in_memory(tmp_path):
    """150 rows of 100 kB: a few at a time are in memory."""
    row = annotated("x", moving(0, 60), query="y" * 50_000).model_dump_json(exclude_none=True)
    data = write_lines(tmp_path / "in.jsonl", [row.replace('"x"', f'"{i}"') for i in range(150)])
    assert data.stat().st_size > 15e6
    tracemalloc.start()
    try:
        run_stage(Refiner(), data, tmp_path / "out.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (tmp_path / "out.jsonl").stat().st_size > 15e6
    assert peak < 10e6


@pytest.mark.parametrize(
    "stage, option, value",
    [
        ("refine", "--link-iou", "1.5"),
        ("refine", "--max-seconds", "0"),
        ("filter", "--max-area-ratio", "0.5"),
        ("filter", "--max-boxes", "x"),
    ],
)
def test_bad_usage_exits_with_2(stage, option, value, capsys):
    with pytest.raises(SystemExit) as error:
        main(["unistg", stage, "--data", "a", "--out", "b", option, value])

    assert error.value.code == 2 and option in capsys.readouterr().err


def test_missing_input_is_one_line(tmp_path, capsys):
    assert refine(tmp_path / "nowhere.jsonl", tmp_path / "out.jsonl") == 1
    assert "nowhere.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl.partial").exists()


# The four stages.


def test_tubes_are_found_again(tmp_path):
    """Captions and wide spans of the synthetic set go in; its true spans and boxes come out."""
    truth = write_set(tmp_path, SynthConfig(num_videos=4, num_frames=24, seed=3))
    colours = [row.query.split()[1] for row in truth]
    same_video = [[c for r, c in zip(truth, colours) if r.videos == row.videos] for row in truth]
    # Colour is all that the detector here knows.
    clear = [row for row, colour, all_of in zip(truth, colours, same_video) if all_of.count(colour) == 1]
    assert len(clear) >= 6
    coarse = [
        vtg(row.id, row.query, (max(0, start - 3), min(24, end + 3)), 2.0, 24, row.videos[0], (48, 48))
        for row in clear
        for start, end in [row.target.span_frames]
    ]
    files = [tmp_path / f"{number}.jsonl" for number in range(5)]
    write_lines(files[0], coarse)
    with server() as running:
        address = ["--base-url", running.url, "--model", "tiny"]
        assert main(["unistg", "analyze", "--data", str(files[0]), "--out", str(files[1]), *address]) == 0

    run_stage(Annotator(ColourDetector(), tmp_path, {}), files[1], files[2])
    # A shape moves on by up to three quarters of its width from frame to frame: an IoU of .14.
    assert refine(files[2], files[3], "--link-iou", "0.1") == 0
    assert main(["unistg", "filter", "--data", str(files[3]), "--out", str(files[4])]) == 0

    made = list(read_rows(files[4]))
    assert len(made) == len(clear)
    for row, true in zip(made, clear):
        assert row.target.span_frames == true.target.span_frames
        assert row.target.span_seconds == true.target.span_seconds
        assert row.target.frames == true.target.frames
        for box, true_box in zip(row.target.boxes, true.target.boxes):
            assert box == pytest.approx(true_box, abs=4)  # the codec blurs edges, a triangle's tip above all
