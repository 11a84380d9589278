"""A valid raw file of every source of `spacevllm-cli convert`, as data that a test may change before it is written."""

import io
import json
import pickle
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import test_convert_expressions as expressions
import test_convert_hcstvg as hcstvg
import test_convert_moments as moments
import test_convert_st_align as st_align
import test_convert_vidstg as vidstg


@dataclass
class RawSet:
    """What a source reads.

    Attributes:
        files: Path below the folder -> its data; the suffix decides how it is written.
        paths: Options that are paths below the folder.
        options: The other options.
        media_dir: Whether the source needs, or can use, videos.
    """

    files: dict[str, Any]
    paths: dict[str, str]
    options: dict[str, str] = field(default_factory=dict)
    media_dir: bool = False


def raw_set(source: str) -> RawSet:
    """Fresh data of a source, of which at least one row can be kept."""
    question = {"question": "What next?\nA. He sits.\nB. He runs.", "answer": "B. He runs."}
    choice = {"video": "v.mp4", "question": "What next?", "candidates": ["He sits.", "He runs."], "answer": "He runs."}
    split = {"split": "train"}
    named = {"dataset_name": "set", "split": "val"}
    file = {"annotations": "raw.json"}
    match source:
        case "hcstvg-v1":
            return RawSet({"raw.json": {"a.mp4": hcstvg.v1(), "b.mp4": hcstvg.v1()}}, file, split)
        case "hcstvg-v2":
            return RawSet({"raw.json": {"a.mp4": hcstvg.v2(), "b.mp4": hcstvg.v2()}}, file, split)
        case "vidstg":
            asked = {"description": "what does it watch?", "type": "object", "target_id": 1}
            files = {"raw.json": [vidstg.entry("1", questions=[asked])], "boxes/1.json": vidstg.vidor("1")}
            return RawSet(files, {**file, "boxes": "boxes"}, split)
        case "charades-sta":
            files = {
                "raw.txt": [["v", "1.5", "3.0", "é sentence."], ["v", "0.0", "2.0", "x"]],
                "lengths.csv": [["v", "3"]],
            }
            return RawSet(files, {"annotations": "raw.txt", "lengths": "lengths.csv"}, split, media_dir=True)
        case "didemo":
            item = moments.didemo([[1, 4], [1, 4], [0, 4]])
            return RawSet({"raw.json": [item, {**item, "video": "v.mp4"}]}, file, split, media_dir=True)
        case "tacos":
            video = {"timestamps": [[1, 2], [3, 9]], "sentences": ["a", "é"], "fps": 4.0, "num_frames": 20}
            return RawSet({"raw.json": {"v.mp4": video, "w.mp4": video}}, file, split, media_dir=True)
        case "qvhighlights":
            items = [json.loads(moments.highlight(i, [[0, 4], [82, 150]])) for i in range(2)]
            return RawSet({"raw.jsonl": items}, {"annotations": "raw.jsonl"}, split, media_dir=True)
        case "activitynet":
            video = {"duration": 5.0, "timestamps": [[1, 2], [3, 9]], "sentences": ["a", "é"]}
            return RawSet({"raw.json": {"v": video, "w": video}}, file, split, media_dir=True)
        case "refcoco":
            files = {"refcoco/refs(unc).p": expressions.REFS[:3], "refcoco/instances.json": expressions.INSTANCES}
            return RawSet(deepcopy(files), {"refer_dir": ""}, {"dataset_name": "refcoco", "split": "testA"})
        case "st-align":
            items = [st_align.item(), st_align.item(gpt="From <s> to <e>.", spatial_token={})]
            return RawSet({"raw.json": [{**item, "video_path": "v.mp4"} for item in items]}, file, media_dir=True)
        case "coco-refexp":
            return RawSet({"raw.json": expressions.mdetr()}, file, named)
        case "qwenvl-rec":
            item = {"image": "coco/a.jpg", "sent": "man", "bbox": [1.5, 2, 30, 40], "width": 64, "height": 48}
            return RawSet({"raw.jsonl": [item, {**item, "sent": "é"}]}, {"annotations": "raw.jsonl"}, named)
        case "mvbench":
            files = {"json/action_sequence.json": [{**choice, "start": 1.0, "end": 3.5}], "json/vlnqa.json": [choice]}
            return RawSet({**files, "json/state_change.json": [choice]}, {"annotations": "json"}, media_dir=True)
        case "videomme":
            names = ("videoID", "question_id", "duration", "domain", "sub_category", "task_type")
            item = {**dict.fromkeys(names, "x"), "question": "q?", "options": ["A. One.", "B. Two."], "answer": "B"}
            return RawSet({"raw.parquet": [item, {**item, "question_id": "é"}]}, {"annotations": "raw.parquet"})
        case "tempcompass":
            videos = {"123": {"action": [question, question]}, "124": {"speed": [question]}}
            return RawSet({"raw.json": videos}, file, {"kind": "multi-choice"})
        case "egoschema":
            item = {"q_uid": "u", "question": "What?", **{f"option {i}": f"é {i}" for i in range(5)}}
            files = {"raw.json": [item, {**item, "q_uid": "w"}], "answers.json": {"u": 3, "w": 0}}
            return RawSet(files, {**file, "answers": "answers.json"})

    raise ValueError(f"no raw files of {source}")


def encoded(name: str, data: Any) -> bytes:
    """The bytes of a file; raises `ValueError` where the format cannot hold the data."""
    match Path(name).suffix:
        case ".json":
            # Not only escapes: these would hide what an encoding does.
            return json.dumps(data, ensure_ascii=False).encode(errors="surrogatepass")
        case ".jsonl":
            items = data if isinstance(data, list) else [data]
            return "".join(json.dumps(item) + "\n" for item in items).encode()
        case ".p":
            return pickle.dumps(data, 2)
        case ".txt":
            return _text(data, lambda row: f"{' '.join(map(str, row[:3]))}##{' '.join(map(str, row[3:]))}\n")
        case ".csv":
            return b"id,length\n" + _text(data, lambda row: f"{','.join(map(str, row))}\n")
        case ".parquet":
            file = io.BytesIO()
            try:
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(data), file)
            except Exception as err:
                raise ValueError(f"not a table: {err}") from None

            return file.getvalue()

    raise ValueError(f"{name}: of no kind")


def _text(data: Any, line: Any) -> bytes:
    rows = data if isinstance(data, list) else [data]
    return "".join(line(row if isinstance(row, list) else [row]) for row in rows).encode(errors="surrogatepass")
