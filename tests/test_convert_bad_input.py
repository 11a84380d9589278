"""Raw files that are no text, no JSON, or say what cannot be: one line that names the file, or a counted drop."""

import gzip
import json
import pickle
import resource

import pytest
from conftest import write_video
from converting import converted, run_convert
from hypothesis import given
from hypothesis import strategies as st
from raw_files import encoded, raw_set

from spacevllm_plugin.converters.media_name import is_media_name
from spacevllm_plugin.converters.raw_text import Depth


def written(folder, source, **files):
    """The raw files of a source, those named (by their stem) with other data or bytes; the command's options."""
    raw = raw_set(source)
    for name, data in raw.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = files.get(path.stem, data)
        path.write_bytes(data if isinstance(data, bytes) else encoded(name, data))

    return {**raw.options, **{option: folder / path for option, path in raw.paths.items()}}


def refusal(capsys, folder, source, **files):
    """The one line of a run that must fail without a trace."""
    options = written(folder / "raw", source, **files)
    assert run_convert(source, folder / "out/rows.jsonl", **options) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("spacevllm-cli")]
    assert [path.name for path in (folder / "out").glob("[!.]*")] == []
    assert len(line) < 600 and "b'" not in line
    return line


DEEP = b"[" * 100_000 + b"]" * 100_000
JSON = {"didemo": b"[%s]", "tacos": b'{"v": %s}', "coco-refexp": b'{"annotations": [%s]}'}


@pytest.mark.parametrize("source", JSON)
@pytest.mark.parametrize("value, says", [(DEEP, "nested more"), (b"9" * 5000, "overflow"), (b"1e400", "overflow")])
def test_json_that_no_parser_takes(source, value, says, tmp_path, capsys):
    line = refusal(capsys, tmp_path, source, raw=JSON[source] % value)
    assert "raw.json: not " in line and says in line


@pytest.mark.parametrize(
    "source, name", [("didemo", "raw.json"), ("tacos", "raw.json"), ("qvhighlights", "raw.jsonl")]
)
def test_what_is_not_utf_8_is_said(source, name, tmp_path, capsys):
    data = encoded(name, raw_set(source).files[name])
    for changed, says in (
        (data.decode().encode("utf-16"), "not UTF-8 text, but UTF-16"),
        (data.decode().encode("utf-16-le"), "not UTF-8 text, but UTF-16 or binary"),
        (gzip.compress(data), "not UTF-8 text, but packed by gzip"),
    ):
        assert f"{name}: {says}" in refusal(capsys, tmp_path, source, raw=changed)


def test_latin_1_is_said_with_its_place(tmp_path, capsys):
    video = {"timestamps": [[1, 2]], "sentences": ["x" * 100_000 + "é"], "fps": 4, "num_frames": 20}
    text = json.dumps({"v": video}, ensure_ascii=False)
    line = refusal(capsys, tmp_path, "tacos", raw=text.encode("latin-1"))
    assert f"not UTF-8 text (byte 0xe9 at offset {text.index('é')})" in line


@pytest.mark.parametrize("source", ["didemo", "tacos", "qvhighlights", "qwenvl-rec", "charades-sta", "egoschema"])
def test_the_mark_of_utf_8_is_no_part_of_the_first_item(source, tmp_path):
    plain, marked = tmp_path / "plain", tmp_path / "marked"
    written(plain, source)
    options = written(marked, source)
    for path in marked.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    wanted = converted(source, plain / "o.jsonl", **{**options, **written(plain, source)})
    out = converted(source, marked / "o.jsonl", **options)
    assert out.rows == wanted.rows and out.summary["rows"] == wanted.summary["rows"]


def test_lines_may_end_as_on_any_system(tmp_path):
    data = encoded("raw.txt", raw_set("charades-sta").files["raw.txt"])
    rows = [
        converted("charades-sta", tmp_path / "o.jsonl", **written(tmp_path, "charades-sta", raw=changed)).rows
        for changed in (data, data.replace(b"\n", b"\r"), data.replace(b"\n", b"\r\n"))
    ]
    assert rows[0] == rows[1] == rows[2] and len(rows[0]) == 2


def test_characters_of_another_encoding_are_counted(tmp_path):
    options = written(tmp_path, "charades-sta")
    options["annotations"].write_bytes("v 0.0 1.0##é.\nv 0.0 2.0##x.\n".encode("latin-1"))
    del options["lengths"]
    out = converted("charades-sta", tmp_path / "o.jsonl", **options)
    assert len(out.rows) == 2 and out.summary["repaired"] == {"undecoded_characters": 1}


@pytest.mark.parametrize("length", ["nan", "inf", "-1", "long", "", "9" * 500])
def test_a_length_that_is_none(length, tmp_path, capsys):
    options = written(tmp_path, "charades-sta")
    options["lengths"].write_text(f"id,length\nw,3.0\nv,{length}\n")
    assert run_convert("charades-sta", tmp_path / "out/rows.jsonl", **options) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "lengths.csv: line 3: length '" in line and "is no number of seconds" in line and len(line) < 400


@pytest.mark.parametrize(
    "changes",
    [
        {"tid": [1]},
        {"tid": {}},
        {"bbox": None},
        {"bbox": {"xmin": 1}},
        {"bbox": {"xmin": 10**400, "ymin": 0, "xmax": 1, "ymax": 1}},
    ],
)
def test_a_bad_object_in_a_file_of_vidor(changes, tmp_path, capsys):
    video = raw_set("vidstg").files["boxes/1.json"]
    video["trajectories"][3][0] |= changes
    line = refusal(capsys, tmp_path, "vidstg", **{"1": video})
    assert "vidor_file_unreadable 2; first case: vidstg/train/1/" in line


@pytest.mark.parametrize(
    "data", [DEEP, b"9" * 5000, b"", b"[]", b'{"trajectories": []}', b'{"trajectories": [], "video_path": null}']
)
def test_a_file_of_vidor_that_is_none(data, tmp_path, capsys):
    assert "vidor_file_unreadable 2" in refusal(capsys, tmp_path, "vidstg", **{"1": data})


def test_a_span_of_any_length_is_not_gone_through(tmp_path):
    (entry,) = raw_set("vidstg").files["raw.json"]
    far = {"begin_fid": 12, "end_fid": 10**12}
    long = {**entry, "frame_count": 10**12, "temporal_gt": far, "used_segment": far}
    out = converted("vidstg", tmp_path / "o.jsonl", **written(tmp_path, "vidstg", raw=[entry, long]))
    assert out.rows[0]["target"]["span_frames"] == [12, 20]
    assert all(len(row["target"]["frames"]) <= 30 for row in out.rows)


@pytest.mark.parametrize("changes", [{"img_num": 10**15}, {"st_frame": 10**18}, {"st_frame": -(10**15)}])
def test_hcstvg_numbers_beyond_measure(changes, tmp_path):
    videos = raw_set("hcstvg-v1").files["raw.json"]
    videos["b.mp4"] |= changes
    out = converted("hcstvg-v1", tmp_path / "o.jsonl", **written(tmp_path, "hcstvg-v1", raw=videos))
    assert out.rows[0]["videos"] == ["hcstvg/a.mp4"] and out.summary["rows"]["read"] == 2


def test_integers_that_are_no_floats_are_malformed(tmp_path):
    """Only a pickle and JSON lines can bring one."""
    refs = raw_set("refcoco").files["refcoco/refs(unc).p"]
    refs[1]["sentences"][0]["sent_id"] = 10**5000
    raw = {"refs(unc)": pickle.dumps(refs, 2)}
    out = converted("refcoco", tmp_path / "o.jsonl", **written(tmp_path, "refcoco", **raw))
    assert out.summary["dropped"] == {"malformed": 1} and len(out.rows) == 1

    items = raw_set("qwenvl-rec").files["raw.jsonl"]
    options = written(tmp_path, "qwenvl-rec", raw=[{**items[0], "width": 10**400}, items[1]])
    out = converted("qwenvl-rec", tmp_path / "o.jsonl", **options)
    assert out.summary["dropped"] == {"malformed": 1} and len(out.rows) == 1


def test_a_pickle_that_wants_a_table_of_gigabytes(tmp_path, capsys):
    """In a dict, the place 200,000,000 is one like any other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = refusal(capsys, tmp_path, "refcoco", **{"refs(unc)": b"\x80\x02I1\nr\x00\xc2\xeb\x0b."})
    assert "not a list of references" in line
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


def test_half_a_surrogate_pair_is_no_sentence(tmp_path):
    refs = raw_set("refcoco").files["refcoco/refs(unc).p"]
    refs[1]["sentences"][0]["sent"] = "man \ud800"
    raw = {"refs(unc)": pickle.dumps(refs, 2)}
    out = converted("refcoco", tmp_path / "o.jsonl", **written(tmp_path, "refcoco", **raw))
    assert out.summary["dropped"] == {"malformed": 1} and len(out.rows) == 2


BAD_NAMES = [
    *("", "/etc/passwd", "..", "../v", "a/../../v", "a\0b", "a\nb", "a\x85b", "C:\\v", "a\\..\\v", "c:v", "\ud800"),
    *("a" * 256, "é" * 128, "a/" * 3000 + "v", "a/", " ", ".mp4", "a/.mp4"),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_elsewhere(name):
    assert not is_media_name(name)


@pytest.mark.parametrize(
    "name", ["v.mp4", "a/b.mp4", "./v.mp4", "a//v", "..v", "é b's (1).mp4", "a" * 255, "v.", "av:1"]
)
def test_names_that_do_not(name):
    assert is_media_name(name)


@pytest.mark.parametrize("name", ["../../v", "/etc/v", "a\nb", "v" * 300])
@pytest.mark.parametrize("with_media", [False, True])
def test_a_bad_name_is_dropped(name, with_media, tmp_path):
    """With the videos at hand nothing outside of their folder is looked at: a video that is there is not found."""
    (tmp_path / "media/activitynet").mkdir(parents=True)
    write_video(tmp_path / "media/activitynet/v.mp4", count=20, fps=4)
    write_video(tmp_path / "v.mp4", count=20, fps=4)
    videos = raw_set("activitynet").files["raw.json"]
    options = written(tmp_path, "activitynet", raw={name: videos["v"], "v": videos["v"]})
    out = converted(
        "activitynet", tmp_path / "o.jsonl", **options, **({"media_dir": tmp_path / "media"} if with_media else {})
    )
    assert out.summary["dropped"] == {"bad_media_name": 2} and len(out.rows) == 2
    assert len(out.summary["examples"]["bad_media_name"]) <= 240


@pytest.mark.parametrize("source", ["st-align", "mvbench"])
def test_one_name_too_long_does_not_end_the_others(source, tmp_path):
    for folder in ("st_align", "mvbench/star/Charades_v1_480"):
        (tmp_path / "media" / folder).mkdir(parents=True)
        write_video(tmp_path / "media" / folder / "v.mp4", count=20, fps=4)

    name, field = {"st-align": ("raw", "video_path"), "mvbench": ("action_sequence", "video")}[source]
    (items,) = [data for path, data in raw_set(source).files.items() if name in path]
    # The second is too long only with a suffix behind it.
    more = [{**items[0], field: "v" * length} for length in (5000, 254)]
    options = written(tmp_path, source, **{name: [*more, *items]})
    out = converted(source, tmp_path / "o.jsonl", **options, media_dir=tmp_path / "media")
    assert out.summary["dropped"]["bad_media_name"] == 1 and len(out.rows) >= len(items)


def test_a_path_of_vidor_and_an_image_are_checked_too(tmp_path):
    video = raw_set("vidstg").files["boxes/1.json"] | {"video_path": "../1.mp4"}
    (entry,) = raw_set("vidstg").files["raw.json"]
    options = written(tmp_path, "vidstg", raw=[entry, {**entry, "vid": "2"}], **{"1": video})
    (tmp_path / "boxes/2.json").write_bytes(encoded("2.json", raw_set("vidstg").files["boxes/1.json"]))
    out = converted("vidstg", tmp_path / "o.jsonl", **options)
    assert out.summary["dropped"] == {"bad_media_name": 2} and len(out.rows) == 2

    items = raw_set("qwenvl-rec").files["raw.jsonl"]
    options = written(tmp_path, "qwenvl-rec", raw=[{**items[0], "image": "a/.."}, items[1]])
    out = converted("qwenvl-rec", tmp_path / "o.jsonl", **options, image_folder="/abs/images/")
    assert out.summary["dropped"] == {"bad_media_name": 1}
    # What the user asks for is no raw data: an absolute folder is as good as any.
    assert out.rows[0]["images"] == ["/abs/images//a.jpg"]


def test_an_id_of_megabytes_is_shortened(tmp_path, capsys):
    (entry,) = raw_set("vidstg").files["raw.json"]
    long = {**entry, "vid": "x" * 3_000_000}
    out = converted("vidstg", tmp_path / "o.jsonl", **written(tmp_path, "vidstg", raw=[entry, long]))
    case = out.summary["examples"]["no_vidor_file"]
    assert len(case) <= 240 and case.startswith("vidstg/train/xxx") and case.endswith("/declarative/0/0")
    assert len(refusal(capsys, tmp_path, "vidstg", raw=[long])) < 500


def test_two_reversed_chunks_of_didemo(tmp_path):
    """They have no length together, which was a division by zero."""
    item = raw_set("didemo").files["raw.json"][0]
    options = written(tmp_path, "didemo", raw=[{**item, "times": [[2, 1], [3, 1]]}, item])
    assert converted("didemo", tmp_path / "o.jsonl", **options).summary["dropped"] == {"empty_span": 1}


def test_more_options_than_letters(tmp_path):
    (tmp_path / "media/mvbench").mkdir(parents=True)
    (item,) = raw_set("mvbench").files["json/state_change.json"]
    many = {**item, "candidates": [str(i) for i in range(30)], "answer": "28"}
    options = written(tmp_path, "mvbench", state_change=[many, item])
    out = converted("mvbench", tmp_path / "o.jsonl", **options, media_dir=tmp_path / "media")
    assert out.summary["dropped"] == {"malformed": 1}


@pytest.mark.parametrize("answer", ["x", None, [1], 10**18, {}])
def test_an_answer_of_egoschema_that_is_none(answer, tmp_path):
    options = written(tmp_path, "egoschema", answers={"u": answer, "w": 0})
    out = converted("egoschema", tmp_path / "o.jsonl", **options)
    assert sum(out.summary["dropped"].values()) == 1 and len(out.rows) == 1


@pytest.mark.parametrize(
    "data, says",
    [
        (DEEP, "not valid JSON"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 text"),
    ],
)
def test_an_index_that_is_none_stops_before_the_work(data, says, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/dataset_info.json").write_bytes(data)
    assert run_convert("didemo", tmp_path / "out/rows.jsonl", **written(tmp_path, "didemo")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"dataset_info.json: {says}" in line and not (tmp_path / "out/rows.jsonl").exists()


NESTED = st.recursive(
    st.sampled_from([1, None, 'a"]\\', "[[{", '\\\\"', "\n\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(['k"', "[", "\\"]), inner, max_size=3),
)


@given(value=NESTED, sizes=st.lists(st.integers(1, 7), min_size=1))
def test_the_depth_is_known_without_parsing(value, sizes):
    """Whole, and in parts of any size: between the truth and twice that."""

    def depth(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    text = json.dumps(value).encode()
    assert Depth().reached(text) == depth(value)
    counter, place, deepest = Depth(), 0, 0
    for size in sizes * len(text):
        deepest = max(deepest, counter.reached(text[place : place + size]))
        place += size

    assert depth(value) <= deepest <= 2 * depth(value)
