"""Work shared by workers that die: every piece answered once, and the bytes of one process."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from conftest import write_video
from crew import Crew, times
from tiny_detector import annotate_options
from unistg_parts import annotated, frame, read_lines, refined, rejected, server, vtg, write_lines

from spacevllm_plugin.check import CheckOptions, check_file
from spacevllm_plugin.check.library import CRASHED
from spacevllm_plugin.cli.main import main
from spacevllm_plugin.converters import SOURCES, convert
from spacevllm_plugin.converters.probing import knowing, wanted
from spacevllm_plugin.data import video
from spacevllm_plugin.data.schema import PredictionRow, dump_row, read_rows
from spacevllm_plugin.data.shards import Shards
from spacevllm_plugin.data.storage import StorageError
from spacevllm_plugin.distributed import ground
from spacevllm_plugin.distributed.cluster import OLDEST
from spacevllm_plugin.distributed.ground import predict_shared, shards_folder
from spacevllm_plugin.distributed.media import examine_shared, probe_shared
from spacevllm_plugin.distributed.pieces import Piece, windows
from spacevllm_plugin.distributed.rounds import DIED, Answer, Stopped, work_off
from spacevllm_plugin.distributed.stages import ROWS_AT_ONCE, SharedStage, make_stage_work
from spacevllm_plugin.distributed.worker import Setting, Worker
from spacevllm_plugin.inference.predictor import predict_rows, sort_predictions
from spacevllm_plugin.unistg.analyzer import Analyzer
from spacevllm_plugin.unistg.endpoint import Endpoint, EndpointError
from spacevllm_plugin.unistg.filter import Filter
from spacevllm_plugin.unistg.refiner import Refiner
from spacevllm_plugin.unistg.stage import GAVE_UP, StageError, run_stage


# Pieces and rounds.


def doubling():
    return lambda piece: Answer([2 * item for item in piece.items])


def refusing(bad):
    def work(piece):
        if bad in piece.items:
            raise ValueError(f"{bad} is\nbad")

        return Answer([2 * item for item in piece.items])

    return work


def broken():
    raise OSError("no model here")


def pieces_of(count, items=6):
    """`count` pieces of `items` numbers each, in batches of two or three."""
    numbers = iter(range(count * items))
    some = [[next(numbers) for _ in range(items)] for _ in range(count)]
    return [Piece(f"{n:03d}", (tuple(part[:2]), tuple(part[2:5]), tuple(part[5:]))) for n, part in enumerate(some)]


def answers(pieces, crew, retries=2):
    found, told = {}, []
    for piece, answer in work_off(pieces, crew, retries, told.append):
        for item, value in zip(piece.items, answer.value or [answer.problem] * len(piece.items), strict=True):
            assert item not in found, "an item was answered twice"
            found[item] = value

    return found, told


@pytest.mark.parametrize("seed", range(5))
def test_every_item_is_answered_once_whoever_dies(seed):
    rng = random.Random(seed)
    crew = Crew(doubling, dies=lambda piece: rng.random() < 0.3, dies_after=lambda piece: rng.random() < 0.2)
    found, _ = answers(pieces_of(30), crew, retries=50)
    assert found == {number: 2 * number for number in range(180)}
    assert len(crew.rounds) > 2


def test_poison_ends_and_takes_nothing_with_it():
    crew = Crew(doubling, dies=lambda piece: 33 in piece.items)
    found, told = answers(pieces_of(10), crew, retries=2)
    assert found.pop(33) == DIED
    assert found == {number: 2 * number for number in range(60) if number != 33}
    # Three tries each of the piece, its batch, its row; what is beside it is answered at once.
    tried = Counter(name for names in crew.rounds for name in names)
    assert tried["005"] == tried["005.1"] == tried["005.1.1"] == 3 and max(tried.values()) == 3
    assert tried["005.0"] == tried["005.1.0"] == 1 and len(crew.rounds) == 9
    assert told[-1] == f"005.1.1 (1 items): {DIED}; given up"


def test_an_error_is_a_reason_in_one_line():
    found, _ = answers(pieces_of(3), Crew(partial(refusing, 7)), retries=0)
    assert found.pop(7) == "ValueError: 7 is bad"
    assert len(found) == 17


def unreachable():
    def work(piece):
        if 7 in piece.items:
            raise StorageError("s3://b/v.mp4: cannot be reached")

        return Answer(piece.items)

    return work


def test_a_storage_that_is_down_is_no_rows_fault():
    crew = Crew(unreachable)
    with pytest.raises(Stopped, match="^s3://b/v.mp4: cannot be reached$"):
        answers(pieces_of(4), crew, retries=2)

    assert crew.rounds == [["000", "001", "002", "003"], ["001"], ["001"]]


def test_a_set_up_that_is_wrong_stops_at_once():
    crew = Crew(broken)
    with pytest.raises(Stopped, match="^no model here$"):
        answers(pieces_of(5), crew)

    assert len(crew.rounds) == crew.answered == 1


def test_a_worker_is_set_up_like_the_driver(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPACEVLLM_VIDEO_THREADS", "7")
    monkeypatch.setenv("MKL_CBWR", "AUTO,STRICT")
    monkeypatch.setenv("SECRET", "1")
    there = Setting.here()
    assert there.environment.keys() >= {"SPACEVLLM_VIDEO_THREADS", "MKL_CBWR"} and "SECRET" not in there.environment
    monkeypatch.chdir("/")
    monkeypatch.setenv("SPACEVLLM_VIDEO_THREADS", "1")
    worker = Worker(lambda: lambda piece: Answer((os.getcwd(), os.environ["SPACEVLLM_VIDEO_THREADS"])), there)
    assert worker.answer(Piece("x", ((1,),))) == Answer((str(tmp_path), "7"))


def test_another_node_with_other_packages_or_storage_is_refused(tmp_path):
    there = Setting.here()
    other = replace(there, versions={**there.versions, "torch": "1.0"})
    answer = Worker(doubling, other).answer(Piece("x", ((1,),)))
    assert answer.hopeless and "torch" in answer.problem and answer.problem.endswith("1.0 in the driver")
    answer = Worker(doubling, replace(there, folder=str(tmp_path / "gone"))).answer(Piece("x", ((1,),)))
    assert answer.hopeless and str(tmp_path / "gone") in answer.problem


def test_windows_bound_what_is_handed_over():
    pieces = [Piece(str(number), ((b"x" * 1000,),)) for number in range(10)]
    taken = []
    cut = windows((taken.append(piece) or piece for piece in pieces), most=3500)
    assert [piece.name for piece in next(cut)] == ["0", "1", "2"] and len(taken) == 4
    assert [len(window) for window in cut] == [3, 3, 1]
    assert [len(window) for window in windows(pieces, most=1)] == [1] * 10


def test_shards_are_whole_or_not_there(tmp_path):
    shards = Shards(tmp_path / "s")
    assert shards.read("a") == [] and list(shards.files()) == [] and "a" not in shards
    shards.write("a.1", ["1"])
    shards.write("a", ["{}", "2"])
    shards.write("a", ["3"])
    (shards.folder / ".b.1234.tmp.jsonl").write_text("half")
    assert shards.read("a") == [b"3\n"] and "a" in shards and "b" not in shards
    assert [file.stem for file in shards.files()] == ["a", "a.1"]
    shards.remove()
    assert not shards.folder.exists()


# Predictions.


ENGINES = {}


def load_again():
    """What workers load: by name, as a model cannot be pickled."""
    return ENGINES["tiny"]


@pytest.fixture(scope="module")
def engine(make_engine):
    ENGINES["tiny"] = make_engine("qwen3_vl", video_maxlen=4)
    return ENGINES["tiny"]


@pytest.fixture(scope="module")
def rows(synthetic_set):
    rows = list(synthetic_set.rows)
    random.Random(1).shuffle(rows)
    return rows


SIZES = (2, 3)  # rows at once, new tokens


@pytest.fixture(scope="module")
def alone(engine, rows, synthetic_set, tmp_path_factory):
    """The bytes of one process."""
    out = tmp_path_factory.mktemp("alone") / "p.jsonl"
    predict_rows(engine, rows, synthetic_set.folder, out, *SIZES)
    sort_predictions(out, (row.id for row in rows))
    return out.read_bytes()


@pytest.fixture
def predict(engine, rows, synthetic_set, tmp_path):
    def run(crew=Crew, retries=3, rows=rows, folder=synthetic_set.folder, **more):
        out = tmp_path / "p.jsonl"
        return predict_shared(crew, load_again, rows, folder, out, *SIZES, retries, **more), out

    return run


def test_workers_that_die_give_the_file_of_one_process(predict, alone, rows):
    rng = random.Random(0)
    sights = []
    counts, out = predict(
        partial(Crew, dies=times(3), dies_after=lambda piece: rng.random() < 0.3), retries=20, sees=sights.append
    )
    assert out.read_bytes() == alone and not shards_folder(out).exists()
    assert counts == {**Counter(p.status for p in read_rows(out, PredictionRow)), "failed": 0, "skipped": 0}
    assert sights[0] == load_again().sampling


def test_a_driver_that_dies_goes_on_with_what_is_there(predict, alone, rows):
    class Killed(Exception):
        pass

    def kill(limit, piece):
        if kill.done == limit:
            raise Killed

        kill.done += 1
        return False

    crews = []

    def crew(make, **more):
        crews.append(Crew(make, **more))
        return crews[-1]

    for limit in (1, 2, 1):
        kill.done = 0
        with pytest.raises(Killed):
            predict(partial(crew, dies=partial(kill, limit)))

    counts, out = predict(crew)
    assert out.read_bytes() == alone and not shards_folder(out).exists()
    # What each session was handed: four pieces fewer in the end, and those that were left were done.
    handed = [len(crew.rounds[0]) for crew in crews]
    assert handed == [handed[0], handed[0] - 1, handed[0] - 3, handed[0] - 4] and crews[-1].answered == handed[-1]
    assert sum(counts.values()) == len(rows)
    # All of it is there: no worker is needed, and the bytes stay.
    assert predict(None)[0]["skipped"] == len(rows) and out.read_bytes() == alone


def test_what_one_process_began_is_gone_on_with(predict, alone, rows, tmp_path):
    lines = alone.splitlines(keepends=True)
    (tmp_path / "p.jsonl").write_bytes(lines[4] + lines[1] + lines[3][:30])
    counts, out = predict()
    assert out.read_bytes() == alone and counts["skipped"] == 2


def test_a_row_that_kills_its_worker_fails_alone(predict, alone, rows, tmp_path):
    poison = rows[2].id
    counts, out = predict(partial(Crew, dies=lambda piece: poison in {row.id for row in piece.items}), retries=1)
    found = {p.id: p for p in read_rows(out, PredictionRow)}
    assert [*found] == [row.id for row in rows]
    assert found.pop(poison) == PredictionRow(id=poison, status="failed", error=DIED)
    assert counts["failed"] == 1 and "failed" not in {p.status for p in found.values()}


def test_a_row_that_failed_is_tried_again_with_its_batch(predict, alone, rows, synthetic_set, tmp_path):
    """A file that is not there at first: the bytes are those of a run that never missed it."""
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "videos").symlink_to(synthetic_set.folder / "videos")
    there = synthetic_set.folder / "images"
    told = []

    def arrive(line):
        told.append(line)
        if len(told) == 3 and not (folder / "images").exists():
            (folder / "images").symlink_to(there)

    assert there.exists()
    _, out = predict(retries=3, folder=folder, tell=arrive)
    assert any("failed, the first: " in line and "try 2 of 4" in line for line in told)
    assert out.read_bytes() == alone


def test_a_row_that_fails_each_time_keeps_its_reason(predict, alone, rows, synthetic_set, tmp_path):
    gone = rows[0].model_copy(deep=True)
    (gone.images or gone.videos)[0] = "nowhere.mp4"
    crews = []
    counts, out = predict(lambda make: crews.append(Crew(make)) or crews[-1], rows=[gone, *rows[1:]], retries=2)
    first, *others = read_rows(out, PredictionRow)
    assert first.status == "failed" and "nowhere.mp4" in first.error and counts["failed"] == 1
    assert [len(names) for names in crews[0].rounds[1:]] == [1, 1]
    whole = tmp_path / "whole.jsonl"
    predict_rows(load_again(), [gone, *rows[1:]], synthetic_set.folder, whole, *SIZES)
    sort_predictions(whole, (row.id for row in rows))
    assert out.read_bytes() == whole.read_bytes()


def test_a_model_that_cannot_be_loaded_is_one_line(rows, tmp_path):
    with pytest.raises(Stopped, match="no model here"):
        predict_shared(Crew, broken, rows, tmp_path, tmp_path / "p.jsonl", *SIZES, 3)


def test_shards_that_do_not_arrive_are_said_so(predict, monkeypatch):
    """Nodes that share no storage: what a worker has written is not here."""
    monkeypatch.setattr(ground, "ARRIVES_WITHIN", 0)
    monkeypatch.setattr(Shards, "write", lambda self, name, lines: None)
    with pytest.raises(Stopped, match="all nodes must share its storage"):
        predict()


def test_a_shard_that_is_seen_late_is_waited_for(predict, alone, monkeypatch):
    """As on NFS, which remembers that it was not there."""
    there, asked = Shards.__contains__, Counter()

    def late(self, name):
        asked[name] += 1
        return asked[name] > 1 and there(self, name)

    monkeypatch.setattr(Shards, "__contains__", late)
    assert predict()[1].read_bytes() == alone and {*asked.values()} == {2}


def test_nothing_is_merged_of_which_a_part_is_not_seen(predict, alone, monkeypatch):
    files = Shards.files
    with monkeypatch.context() as patch:
        patch.setattr(Shards, "files", lambda self: list(files(self))[1:])
        with pytest.raises(Stopped, match="all nodes must share its storage"):
            predict()

    # All of it is there still: no worker is needed.
    assert predict(None)[1].read_bytes() == alone


# Uni-STG.


def moving(count):
    return [frame(n, (0, 0.5, 10, 10, 20, 20), (1, 0.4, 30, 30, 40, 40), subject=0) for n in range(count)]


@pytest.mark.parametrize("make, row", [(Refiner, annotated), (Filter, refined)])
def test_a_stage_is_that_of_one_process(make, row, tmp_path, monkeypatch):
    monkeypatch.setitem(ROWS_AT_ONCE, make.name, 16)
    rows = [row(str(i), moving(60 if i % 3 else 40)) for i in range(70)]
    data = write_lines(tmp_path / "in.jsonl", [*rows, rows[0], "no json", row("5", moving(50))])
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    run_stage(make(), data, whole)
    rng = random.Random(0)
    crew = Crew(partial(make_stage_work, make), dies=times(2), dies_after=lambda piece: rng.random() < 0.5)
    run_stage(SharedStage(make(), crew, retries=20), data, out)
    for suffix in ("", ".rejects.jsonl", ".counts.json"):
        assert (tmp_path / f"out.jsonl{suffix}").read_bytes() == (tmp_path / f"whole.jsonl{suffix}").read_bytes()

    assert len(crew.rounds) > 2 and not list(tmp_path.glob(".*"))


def test_a_row_that_kills_a_stage_is_rejected_alone(tmp_path):
    rows = [annotated(str(i), moving(60)) for i in range(30)]
    data, out = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    crew = Crew(partial(make_stage_work, Refiner), dies=lambda piece: "7" in {row.id for row in piece.items})
    report = run_stage(SharedStage(Refiner(), crew, retries=1), data, out)
    assert rejected(out) == {"7": GAVE_UP} and report["rejected"][GAVE_UP] == 1 and len(read_lines(out)) == 29
    assert read_lines(out.with_name("out.jsonl.rejects.jsonl"))[0]["detail"] == DIED


def test_a_server_that_stumbles_is_asked_again_in_each_piece(tmp_path, monkeypatch):
    """One worker, one endpoint, many pieces: its further tries do not end with the first of them."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setitem(ROWS_AT_ONCE, "analyze", 2)
    rows = [vtg(str(i), f"flaky dog {i} that barks") for i in range(6)]
    data, out = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with server() as running:
        make = partial(analyzer, running.url)
        run_stage(SharedStage(make(), Crew(partial(make_stage_work, make)), retries=0), data, out)

    assert [row["objects"] for row in read_lines(out)] == [[f"flaky dog {i}"] for i in range(6)]


def analyzer(url):
    return Analyzer(Endpoint(url, "tiny", retries=3, backoff=0.01), 2)


class Server(Refiner):
    """A stage whose server goes down with a row."""

    def process(self, rows):
        for row in rows:
            if row.id == "3":
                raise EndpointError("http://server: down")

            yield from super().process(iter([row]))


def test_a_stage_that_stops_keeps_what_is_finished(tmp_path):
    data = write_lines(tmp_path / "in.jsonl", [annotated(str(i), moving(60)) for i in range(6)])
    out = tmp_path / "out.jsonl"
    with pytest.raises(StageError, match="^http://server: down$"):
        run_stage(SharedStage(Refiner(), Crew(partial(make_stage_work, Server)), retries=3), data, out)

    kept = out.with_name("out.jsonl.partial").read_text().splitlines()[1:]
    assert [json.loads(line.partition("\t")[0])["id"] for line in kept] == ["0", "1", "2"]


WITHOUT_FCNTL = """
import sys, warnings
sys.modules["fcntl"] = None
from pathlib import Path
from spacevllm_plugin.unistg.refiner import Refiner
from spacevllm_plugin.unistg.rows import Analyzed
from spacevllm_plugin.unistg.stage import StageError, run_stage
data, out = Path(sys.argv[1]), Path(sys.argv[2])
class Meanwhile(Refiner):
    def process(self, rows):
        try:
            run_stage(Refiner(), data, out)
        except StageError as err:
            print(err)
        yield from super().process(rows)
run_stage(Meanwhile(), data, out)
"""


def test_a_stage_runs_where_there_is_no_fcntl(tmp_path):
    data = write_lines(tmp_path / "in.jsonl", [annotated("a", moving(60))])
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_FCNTL, str(data), str(tmp_path / "out.jsonl")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "another run is writing it" in result.stdout
    assert len(read_lines(tmp_path / "out.jsonl")) == 1 and not list(tmp_path.glob(".*"))


# Media.


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos").mkdir()
    for number in range(4):
        write_video(tmp_path / "videos" / f"{number}.mp4", 8 + number)

    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    return tmp_path


@pytest.mark.parametrize("decode", [False, True])
def test_check_is_that_of_one_process(folder, synthetic_set, decode):
    from spacevllm_plugin.check.media import Reading

    lines = [dump_row(row) for row in synthetic_set.rows] + ["no json"]
    gone = synthetic_set.of("stvg").model_copy(update={"id": "gone", "videos": ["videos/gone.mp4"]})
    file = write_lines(folder / "rows.jsonl", [*lines, dump_row(gone)])
    reading = Reading() if decode else None
    options = partial(CheckOptions, [str(synthetic_set.folder)], workers=1, reading=reading)
    with open(folder / "a", "wb") as ours:
        expected = check_file(file, options(memory=folder / "m1"), ours)

    crew = partial(Crew, dies=times(1))
    with open(folder / "b", "wb") as theirs:
        share = partial(examine_shared, crew, 3, lambda line: None)
        report = check_file(file, options(memory=folder / "m2", share=share), theirs)

    assert report.as_json() == expected.as_json() and report.rows > report.good > 0
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    assert sorted((folder / "m1").read_text().splitlines()) == sorted((folder / "m2").read_text().splitlines())
    # What is remembered is not looked at again; faults are.
    crews = []
    share = partial(examine_shared, lambda make: crews.append(Crew(make)) or crews[-1], 3, lambda line: None)
    check_file(file, options(memory=folder / "m2", share=share))
    assert len(crews) == 1 and crews[0].rounds == [["000000"]]


def test_a_file_that_kills_its_readers_is_broken(folder, synthetic_set):
    file = write_lines(folder / "rows.jsonl", list(map(dump_row, synthetic_set.rows)))
    poison = synthetic_set.rows[0].videos[0]
    crew = partial(Crew, dies=lambda piece: any(poison in job.source for job in piece.items))
    share = partial(examine_shared, crew, 1, lambda line: None)
    report = check_file(file, CheckOptions([str(synthetic_set.folder)], folder / "m", share=share))
    assert report.media["unusable"] == 1 and CRASHED in str(report.as_json())


def test_convert_probes_each_video_once_and_writes_the_same(folder, monkeypatch):
    (folder / "charades").symlink_to(folder / "videos")
    sentences = [
        f"{name} 0.0 {end}##person {what}."
        for name, end in (("0", 1), ("1", 9), ("broken", 1), ("gone", 1))
        for what in ("sits", "stands")
    ]
    (folder / "raw.txt").write_text("\n".join(sentences) + "\n")
    source = SOURCES["charades-sta"](annotations=folder / "raw.txt", split="test", media_dir=folder)
    report = convert(source, folder / "a" / "rows.jsonl")
    refs = wanted(source)
    assert [ref.path.rpartition("/")[2] for ref in refs] == ["0.mp4", "1.mp4", "broken.mp4"]
    known = probe_shared(partial(Crew, dies=times(1)), 2, lambda line: None, refs)
    asked = []
    monkeypatch.setattr(video, "probe", lambda ref: asked.append(ref))
    with knowing(known):
        again = convert(source, folder / "b" / "rows.jsonl")

    assert asked == [] and again.summary() == report.summary() and report.summary()["rows"]["kept"] == 4
    for name in ("rows.jsonl", "rows.jsonl.summary.json", "dataset_info.json"):
        assert (folder / "a" / name).read_bytes() == (folder / "b" / name).read_bytes()


# The commands.


@pytest.fixture
def file(synthetic_set):
    return str(synthetic_set.folder / "annotations.jsonl")


@pytest.fixture
def by_crew(monkeypatch):
    """`--ray` has workers in this process, of which the first dies."""
    crews = []

    class Cluster:
        def crew(self, make, use_gpus=False):
            crews.append(Crew(make, dies=times(1)))
            return crews[-1]

    for command in ("convert", "predict", "unistg"):
        monkeypatch.setattr(
            f"spacevllm_plugin.cli.{command}.sharing", lambda args: nullcontext(Cluster() if args.ray else None)
        )

    return crews


def test_annotate_loads_its_detector_in_the_worker(by_crew, tmp_path):
    command = ["unistg", "annotate", *map(str, annotate_options(tmp_path))]
    for name, more in (("a", []), ("b", ["--ray"])):
        assert main([*command, "--out", str(tmp_path / name), *more]) == 0

    assert by_crew[0].answered == 2
    for suffix in ("", ".rejects.jsonl", ".counts.json"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes() != b""


def test_predict_and_convert_hand_their_workers_what_they_need(
    by_crew, tiny_base, synthetic_set, file, folder, capsys
):
    command = ["predict", "--model", str(tiny_base("qwen3_vl")), "--data", file, "--max-new-tokens", "3"]
    command += ["--arg", "infer_dtype=float32", "--arg", "video_maxlen=4"]
    for name, more in (("a", []), ("b", ["--ray", "--retries", "1"])):
        assert main([*command, "--out", str(folder / name), *more]) == 0

    assert (folder / "a").read_bytes() == (folder / "b").read_bytes() and len(by_crew) == 1
    (folder / "charades").symlink_to(folder / "videos")
    (folder / "raw.txt").write_text("0 0.0 1.0##person sits.\n")
    command = ["convert", "charades-sta", "--annotations", str(folder / "raw.txt"), "--media-dir", str(folder)]
    assert main([*command, "--split", "test", "--out", str(folder / "rows.jsonl"), "--ray"]) == 0
    assert by_crew[1].answered == 1 and next(read_rows(folder / "rows.jsonl")).media.num_frames == 8


def test_without_ray_it_is_one_line(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["check", file, "--memory", str(tmp_path / "m"), "--ray"]) == 1
    error = capsys.readouterr().err
    assert error == (
        "spacevllm-cli check: --ray needs Ray, which is not installed: pip install spacevllm_plugin[ray]\n"
    )


def test_a_ray_that_loses_workers_is_one_line(file, tmp_path, monkeypatch, capsys):
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))

    sys.modules["ray"].__version__ = "2.55.0"
    assert main(["check", file, "--memory", str(tmp_path / "m"), "--ray"]) == 1
    assert f"Ray 2.55.0: {OLDEST} or newer is needed" in capsys.readouterr().err
    assert f'"ray>={OLDEST},' in (Path(__file__).parents[1] / "setup.py").read_text()


@pytest.mark.parametrize(
    "options, says",
    [
        (["--ray-workers", "2"], "--ray-workers goes with --ray"),
        (["--retries", "2"], "--retries goes with --ray"),
        (["--ray", "--retries", "-1"], "--retries must be at least 0"),
        (["--ray", "--ray-workers", "0"], "--ray-workers must be at least 1"),
    ],
)
def test_bad_usage(file, tmp_path, options, says, capsys):
    assert main(["check", file, "--memory", str(tmp_path / "m"), *options]) == 2
    assert says in capsys.readouterr().err
