"""The training mixture: rows drawn from converted parts by their proportions, without holding them in memory.

Rows are drawn by a hash of seed and id, not by their place: the same seed gives the same rows whatever the order of the
files, and a larger total keeps what a smaller one had.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tqdm import tqdm

from ..data.jsonl import filled_lines
from ..data.output import Outputs, same_file
from ..data.schema import TASKS, RowError, parse_row
from .stage import StageError, beside


class Part(BaseModel):
    """One part of a mixture.

    Attributes:
        weight: Its share is this over the sum of all weights.
        files: JSONL files of annotation rows, relative to the data folder.
        when_short: With fewer rows than its share asks for: `take` what there is, `repeat` rows, or `stop`.
        media_prefix: Put before the rows' relative media paths, where these do not start at the data folder.
    """

    model_config = ConfigDict(extra="forbid")

    weight: float = Field(gt=0, allow_inf_nan=False)
    files: list[str] = Field(min_length=1)
    when_short: Literal["take", "repeat", "stop"] = "take"
    media_prefix: str = ""


class Mixture(BaseModel):
    """What a mixture's YAML says.

    Attributes:
        total: Rows of the mixture.
        seed: Another seed draws other rows.
        parts: By name.
    """

    model_config = ConfigDict(extra="forbid")

    total: int = Field(gt=0)
    seed: int = 0
    parts: dict[str, Part] = Field(min_length=1)

    @classmethod
    def load(cls, path: Path) -> "Mixture":
        """Read a YAML file; raises `StageError` with one line."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except yaml.YAMLError as err:
            raise StageError(f"{path}: {' '.join(str(err).split())}") from None
        except ValidationError as err:
            first = err.errors()[0]
            raise StageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def wanted(self) -> dict[str, int]:
        """Rows of each part: whole numbers that add up to `total`, by largest remainder."""
        sum_of_weights = sum(part.weight for part in self.parts.values())
        exact = {name: self.total * part.weight / sum_of_weights for name, part in self.parts.items()}
        rows = {name: int(share) for name, share in exact.items()}
        by_remainder = sorted(exact, key=lambda name: rows[name] - exact[name])
        for name in by_remainder[: self.total - sum(rows.values())]:
            rows[name] += 1

        return rows


@dataclass
class _Index:
    """Where a part's usable rows lie: parallel arrays, no contents."""

    ranks: array = field(default_factory=lambda: array("Q"))  # the hash that rows are drawn by
    files: array = field(default_factory=lambda: array("L"))  # which of the part's files
    offsets: array = field(default_factory=lambda: array("Q"))  # bytes
    tasks: array = field(default_factory=lambda: array("B"))  # place in TASKS

    def add(self, rank: int, file: int, offset: int, task: str) -> None:
        """Note a row."""
        self.ranks.append(rank)
        self.files.append(file)
        self.offsets.append(offset)
        self.tasks.append(TASKS.index(task))


@dataclass
class _Unusable:
    """Rows left out, and the first of each kind."""

    bad: int = 0
    duplicate: int = 0
    examples: list[str] = field(default_factory=list)


def mix(mixture: Mixture, data_dir: Path, out: Path, name: str) -> dict[str, Any]:
    """Write a mixture and its entry in the data folder's dataset_info.json.

    Parts are interleaved evenly: any stretch of the file has about the composition of the whole.

    Args:
        mixture: The proportions.
        data_dir: Where the parts' paths start (`dataset_dir` of the recipes).
        out: JSONL file to write.
        name: Of the entry.

    Returns:
        What `OUT.counts.json` holds: `total`, `seed`, `parts` (each `wanted`, `there`, `rows`, `repeated`), `tasks`,
        `bad_rows`, `duplicate_ids`, `examples`.

    Raises:
        StageError: A part is short and says `stop`, OUT is a part's file, or dataset_info.json is no JSON object.
        FileNotFoundError: A part's file is missing.
    """
    info = _read_info(data_dir / "dataset_info.json")
    indexes, unusable = _survey(mixture, data_dir, out)
    wanted = mixture.wanted()
    for part, count in wanted.items():
        there = len(indexes[part].ranks)
        if there < count and (mixture.parts[part].when_short == "stop" or not there):
            raise StageError(f"part {part!r} has {there} usable rows, {count} are wanted")

    chosen = {part: _choose(indexes[part], wanted[part], mixture.parts[part].when_short) for part in wanted}
    tasks = np.zeros(len(TASKS), dtype=int)
    with Outputs() as outputs, ExitStack() as stack:
        file = outputs.open(out)
        sources = {
            part: [stack.enter_context(open(data_dir / path, "rb")) for path in mixture.parts[part].files]
            for part in wanted
        }
        rows = _interleave({part: len(rows) for part, rows in chosen.items()})
        for part, place in tqdm(rows, total=sum(map(len, chosen.values())), unit="row", desc="mix"):
            index, row = indexes[part], chosen[part][place]
            line = _line(sources[part][index.files[row]], int(index.offsets[row]))
            tasks[index.tasks[row]] += 1
            file.write(_adapt(line, place // len(index.ranks), mixture.parts[part].media_prefix) + b"\n")

        report = {
            "total": sum(map(len, chosen.values())),
            "seed": mixture.seed,
            "parts": {
                part: {
                    "wanted": wanted[part],
                    "there": len(indexes[part].ranks),
                    "rows": len(rows),
                    "repeated": max(0, len(rows) - len(indexes[part].ranks)),
                }
                for part, rows in chosen.items()
            },
            "tasks": {task: int(count) for task, count in zip(TASKS, tasks)},
            "bad_rows": unusable.bad,
            "duplicate_ids": unusable.duplicate,
            "examples": unusable.examples,
        }
        _write_json(outputs.open(beside(out, "counts.json")), report)
        info[name] = {"file_name": os.path.relpath(out, data_dir), "formatting": "spacevllm"}
        _write_json(outputs.open(data_dir / "dataset_info.json"), info)

    return report


def _survey(mixture: Mixture, data_dir: Path, out: Path) -> tuple[dict[str, _Index], _Unusable]:
    """Read every row of every part once."""
    unusable, seen, indexes = _Unusable(), set(), {}
    for path in (data_dir / path for part in mixture.parts.values() for path in part.files):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")

        if same_file(path, out):
            raise StageError(f"{path} is a part of the mixture and would be overwritten")

    for name, part in mixture.parts.items():
        index = indexes[name] = _Index()
        for number, path in enumerate(part.files):
            for offset, task, row_id in _rows(data_dir / path, unusable):
                rank = int.from_bytes(hashlib.blake2b(f"{mixture.seed}/{row_id}".encode(), digest_size=8).digest())
                if rank in seen:
                    unusable.duplicate += 1
                    continue

                seen.add(rank)
                index.add(rank, number, offset, task)

    return indexes, unusable


def _rows(path: Path, unusable: _Unusable) -> Iterator[tuple[int, str, str]]:
    """Offset, task and id of each usable row."""
    with open(path, "rb") as file:
        for line in tqdm(filled_lines(file), unit="row", desc=path.name):
            try:
                row = parse_row(line.text, where=f"{path.name}:{line.number}")
                yield line.offset, row.task, row.id
            except RowError as err:
                unusable.bad += 1
                if len(unusable.examples) < 5:
                    unusable.examples.append(str(err))


def _choose(index: _Index, wanted: int, when_short: str) -> np.ndarray:
    """Rows of the index, by rank: the first ones; all of them, if there are fewer, and again if they are repeated."""
    order = np.argsort(np.asarray(index.ranks, dtype=np.uint64), kind="stable")
    return np.resize(order, wanted) if wanted <= len(order) or when_short == "repeat" else order


def _interleave(lengths: dict[str, int]) -> Iterator[tuple[str, int]]:
    """(part, place) so that each part's places are spread evenly; each part's in order."""
    names = list(lengths)
    position = np.concatenate([(np.arange(length) + 0.5) / max(length, 1) for length in lengths.values()])
    part = np.repeat(np.arange(len(names)), list(lengths.values()))
    place = np.concatenate([np.arange(length) for length in lengths.values()])
    for i in np.argsort(position, kind="stable"):
        yield names[part[i]], int(place[i])


def _line(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.readline().strip()


def _adapt(line: bytes, repeat: int, prefix: str) -> bytes:
    """The row with its own id if it is there again, and with media paths that start at the data folder."""
    if not repeat and not prefix:
        return line

    row = json.loads(line)
    if repeat:
        row["id"] += f"#{repeat + 1}"

    for column in ("videos", "images"):
        if row.get(column) and prefix:
            row[column] = [_under(prefix, media) for media in row[column]]

    return json.dumps(row, ensure_ascii=False).encode()


def _under(prefix: str, media: str | list[str]) -> str | list[str]:
    # Joining leaves absolute paths as they are.
    return os.path.join(prefix, media) if isinstance(media, str) else [os.path.join(prefix, file) for file in media]


def _read_info(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}

    try:
        info = json.loads(path.read_bytes())
    except ValueError as err:
        raise StageError(f"{path}: not JSON ({err})") from None

    if not isinstance(info, dict):
        raise StageError(f"{path}: not a JSON object")

    return info


def _write_json(file: BinaryIO, value: Any) -> None:
    file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
