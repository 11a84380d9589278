"""`pack-media`: rows and clips in tar shards that training, predict and check read as they read files of their own."""

import io
import json
import tarfile

import pytest
from conftest import changed, write_image
from runs import tokenise, write_data

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.media import locate
from spacevllm_plugin.data.members import Member, member_of
from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.data.video import MediaError, VideoRef, identity, image_size, probe, read, read_image


@pytest.fixture(scope="module")
def packed(synthetic_set, tmp_path_factory):
    """The synthetic set in shards that hold a clip or two each."""
    out = tmp_path_factory.mktemp("packed")
    assert pack(synthetic_set.folder / "annotations.jsonl", out, "--shard-mb", "0.005") == 0
    return out


def pack(file, out, *options):
    return main(["pack-media", str(file), "--out", str(out), *options])


def media(row):
    return [*(row.get("videos") or ()), *(row.get("images") or ())]


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_rows_refer_to_the_bytes_of_their_media(synthetic_set, packed):
    shards = sorted(packed.glob("annotations-*.tar"))
    assert len(shards) > 1 and sorted(packed.iterdir()) == [*shards, packed / "annotations.jsonl"]
    before, after = rows_of(synthetic_set.folder / "annotations.jsonl"), rows_of(packed / "annotations.jsonl")
    assert len(before) == len(after)
    places = {}
    for old, new in zip(before, after):
        assert {**old, "videos": 0, "images": 0} == {**new, "videos": 0, "images": 0}
        for path, reference in zip(media(old), media(new)):
            assert places.setdefault(path, reference) == reference
            member = member_of(reference)
            data = (packed / member.shard).read_bytes()[member.offset :][: member.size]
            assert data == (synthetic_set.folder / path).read_bytes()

    assert len(set(places.values())) == len(places)


def test_each_medium_is_a_sample_with_its_rows(synthetic_set, packed):
    lines = (synthetic_set.folder / "annotations.jsonl").read_bytes().splitlines(keepends=True)
    found = []
    for shard in sorted(packed.glob("*.tar")):
        with tarfile.open(shard) as tar:
            names = tar.getnames()
            assert [name.partition(".")[0] for name in names[::2]] == [name.partition(".")[0] for name in names[1::2]]
            found += [line for name in names if name.endswith(".jsonl") for line in tar.extractfile(name).readlines()]

    assert sorted(found) == sorted(lines)


def test_pictures_are_those_of_the_files(synthetic_set, packed):
    before, after = rows_of(synthetic_set.folder / "annotations.jsonl"), rows_of(packed / "annotations.jsonl")
    for old, new in zip(before, after):
        for path, reference in zip(old.get("videos") or (), new.get("videos") or ()):
            ours, theirs = VideoRef(str(packed / reference)), VideoRef(str(synthetic_set.folder / path))
            assert probe(ours) == probe(theirs)
            assert [image.tobytes() for image in read(ours, [11, 3])] == [
                image.tobytes() for image in read(theirs, [11, 3])
            ]

        for path, reference in zip(old.get("images") or (), new.get("images") or ()):
            ours, theirs = str(packed / reference), str(synthetic_set.folder / path)
            assert (
                image_size(ours) == image_size(theirs) and read_image(ours).tobytes() == read_image(theirs).tobytes()
            )


def test_frame_lists_and_folders(tmp_path):
    frames = [write_image(tmp_path / "frames" / f"{number}.png", number) for number in _numbered(tmp_path / "frames")]
    row = {
        "id": "a",
        "task": "qa",
        "messages": [{"role": "user", "content": "<video>and<video>What?"}, {"role": "assistant", "content": "This."}],
        "videos": ["frames", [f"frames/{number}.png" for number in (2, 0)]],
        "media": {"width": 48, "height": 48, "fps": 2.0, "num_frames": 3},
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert pack(tmp_path / "rows.jsonl", tmp_path / "out") == 0
    (new,) = read_rows(tmp_path / "out" / "rows.jsonl")
    folder, chosen = new.videos
    assert len(folder) == 3 and len(chosen) == 2
    for references, wanted in ((folder, frames), (chosen, [frames[2], frames[0]])):
        ref = VideoRef(frames=tuple(str(tmp_path / "out" / reference) for reference in references), fps=2.0)
        pictures = read(ref, range(len(wanted)))
        assert [image.tobytes() for image in pictures] == [read_image(path).tobytes() for path in wanted]


def _numbered(folder):
    folder.mkdir()
    return range(3)


def test_training_sees_the_same(synthetic_set, packed, tiny_base, tmp_path):
    def start(folder, file):
        info = {"rows": {"file_name": f"{file}", "formatting": "spacevllm"}}
        data = tmp_path / f"data_{folder.name}"
        data.mkdir()
        (data / "dataset_info.json").write_text(json.dumps(info))
        return tokenise(tiny_base("qwen3_vl"), data, tmp_path / "out", dataset="rows", media_dir=str(folder))

    plain = start(synthetic_set.folder, synthetic_set.folder / "annotations.jsonl")["train_dataset"]
    ours = start(packed, packed / "annotations.jsonl")["train_dataset"]
    assert len(ours) == len(plain)
    for name in ("input_ids", "labels", "box_targets"):
        assert str(ours[name][:]) == str(plain[name][:])

    assert all(member_of(path) for paths in ours["videos"] for path in paths or ())


def test_predictions_are_the_same(synthetic_set, packed, make_engine, tmp_path):
    from spacevllm_plugin.inference.predictor import predict_rows

    written = []
    for folder in (synthetic_set.folder, packed):
        out = tmp_path / f"{folder.name}.jsonl"
        rows = list(read_rows(folder / "annotations.jsonl"))[:6]
        assert predict_rows(make_engine("qwen3_vl"), rows, folder, out, 2, 8)["failed"] == 0
        written.append(out.read_bytes())

    assert written[0] == written[1]


def test_chat_tells_clips_in_a_shard_apart(packed, make_engine):
    from spacevllm_plugin.inference.prefix_cache import content_key

    engine, messages = make_engine("qwen3_vl"), [{"role": "user", "content": "<video>Where?"}]

    def key(reference):
        return content_key(engine.prompter, engine.item("x", "qa", messages, [], [str(packed / reference)]))

    first, second, *_ = dict.fromkeys(
        path for row in rows_of(packed / "annotations.jsonl") for path in row.get("videos", ())
    )
    assert key(first) == key(first) != key(second)


def test_check_finds_what_is_wrong(packed, tmp_path):
    report = tmp_path / "report.json"
    command = ["check", "--media-dir", str(packed), "--json", str(report), "--workers", "1"]
    command += ["--memory", str(tmp_path / "memory"), "--media-index", str(tmp_path / "media.index")]
    assert main([*command, str(packed / "annotations.jsonl")]) == 0
    first = json.loads(report.read_text())
    assert first["good"] == first["rows"] and first["media"]["examined"] == first["media"]["files"] > 1
    assert main([*command, str(packed / "annotations.jsonl"), "--decode"]) == 0

    row = next(row for row in rows_of(packed / "annotations.jsonl") if row["task"] == "stvg")
    shard, offset, size = member_of(row["videos"][0])
    rows = [changed(row, id=str(i), videos=[str(path)]) for i, path in enumerate(_wrong(shard, offset, size))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([*command, str(tmp_path / "rows.jsonl")]) == 1
    problems = json.loads(report.read_text())["problems"]
    assert {kind: found["count"] for kind, found in problems.items()} == {"media-missing": 2, "media-broken": 1}


def _wrong(shard, offset, size):
    """No such shard; beyond its end; not where the clip begins."""
    return Member("no.tar", 512, 9), Member(shard, 10**9, size), Member(shard, offset + 99, size - 99)


def test_datasets_reads_the_shards(synthetic_set, tmp_path):
    from datasets import Video, load_dataset

    rows = [row.model_dump(exclude_none=True) for row in synthetic_set.rows if row.videos]
    write_data(tmp_path, rows)
    assert pack(tmp_path / "rows.jsonl", tmp_path / "out", "--media-dir", str(synthetic_set.folder)) == 0
    files = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    found = load_dataset("webdataset", data_files=files, split="train", streaming=True)
    found = list(found.cast_column("mp4", Video(decode=False)))
    assert {sample["mp4"]["bytes"] for sample in found} == {
        (synthetic_set.folder / row["videos"][0]).read_bytes() for row in rows
    }
    assert sum(len(sample["jsonl"].splitlines()) for sample in found) == len(rows)


@pytest.fixture(scope="module")
def parquet(synthetic_set, tmp_path_factory):
    """The synthetic set as the hub has such sets: two Parquet files that hold the media."""
    import pyarrow as pa
    from datasets import Dataset, Image, List, Video

    def filled(row):
        held = {
            column: row.get(column)
            and [{"bytes": (synthetic_set.folder / path).read_bytes(), "path": path} for path in row[column]]
            for column in ("videos", "images")
        }
        return {**dict.fromkeys(names), **row, **held}

    rows = rows_of(synthetic_set.folder / "annotations.jsonl")
    names = {name for row in rows for name in row}
    folder = tmp_path_factory.mktemp("parquet")
    for number, part in enumerate((rows[: len(rows) // 2], rows[len(rows) // 2 :])):
        data = Dataset(pa.Table.from_pylist([filled(row) for row in part]))
        data = data.cast_column("videos", List(Video(decode=False))).cast_column("images", List(Image(decode=False)))
        data.to_parquet(folder / f"train-{number:05}-of-00002.parquet")

    return sorted(folder.iterdir())


def test_parquet_with_its_media_is_packed(synthetic_set, parquet, tmp_path):
    """Each medium once, however many rows hold a copy of it."""
    assert main(["pack-media", *map(str, parquet), "--out", str(tmp_path)]) == 0
    before, after = rows_of(synthetic_set.folder / "annotations.jsonl"), rows_of(tmp_path / "train.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-000000.tar", "train.jsonl"]
    for old, new in zip(before, after, strict=True):
        assert {**old, "videos": 0, "images": 0} == {**new, "videos": 0, "images": 0}
        for path, reference in zip(media(old), media(new), strict=True):
            member = member_of(reference)
            data = (tmp_path / member.shard).read_bytes()[member.offset :][: member.size]
            assert data == (synthetic_set.folder / path).read_bytes()

    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        packed = [name for name in tar.getnames() if not name.endswith(".jsonl")]

    assert len(packed) == len({(synthetic_set.folder / path).read_bytes() for row in before for path in media(row)})
    assert {name.rpartition(".")[2] for name in packed} == {
        path.rpartition(".")[2] for row in before for path in media(row)
    }


def test_parquet_that_cannot_be_used_is_one_line(parquet, tmp_path, capsys):
    import pyarrow.parquet as pq

    broken, other = tmp_path / "broken.parquet", tmp_path / "other.parquet"
    broken.write_bytes(b"PAR1 and nothing else")
    table = pq.read_table(parquet[0])
    pq.write_table(table.rename_columns([name.replace("query", "sentence") for name in table.column_names]), other)
    for file, said in ((broken, "no Parquet that can be read"), (other, r"other.parquet: row 1")):
        assert pack(file, tmp_path / "out") == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert str(file) in line and said in line and not (tmp_path / "out").exists()

    assert main(["pack-media", str(parquet[0]), str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out")]) == 2


def test_a_missing_medium_is_one_line_and_nothing_is_written(synthetic_set, tmp_path, capsys):
    row = synthetic_set.of("stvg").model_dump(exclude_none=True)
    write_data(tmp_path, [row, changed(row, id="b", videos=["no.mp4"])])
    assert pack(tmp_path / "rows.jsonl", tmp_path / "out", "--media-dir", str(synthetic_set.folder)) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "rows.jsonl:2" in line and "no.mp4" in line and not (tmp_path / "out").exists()
    assert pack(tmp_path / "rows.jsonl", tmp_path, "--media-dir", str(synthetic_set.folder)) == 2


def test_references(packed):
    assert member_of("a/b.tar#512+99") == Member("a/b.tar", 512, 99) and str(Member("a.tar", 0, 1)) == "a.tar#0+1"
    assert [member_of(path) for path in ("a.mp4", "a.tar", "a.tar#1", "a.tar#x+1", ["a.tar#1+1"], io)] == [None] * 6
    (reference, *_) = (path for row in rows_of(packed / "annotations.jsonl") for path in media(row))
    assert locate(reference, [str(packed / "elsewhere"), str(packed)]) == str(packed / reference)
    with pytest.raises(MediaError, match="no.tar"):
        identity(str(packed / "no.tar#512+1"))
