"""Running `spacevllm-cli convert` from the tests on raw files written there."""

import json
from dataclasses import dataclass
from pathlib import Path

from spacevllm_plugin.cli.main import main


@dataclass
class Converted:
    rows: list[dict]
    summary: dict
    info: dict

    @property
    def ids(self):
        return [row["id"] for row in self.rows]

    def row(self, part):
        """The one row whose id holds `part`."""
        (row,) = [row for row in self.rows if part in row["id"]]
        return row


def write_json(path: Path, data) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def run_convert(source: str, out: Path, **options) -> int:
    """The command; returns its exit code."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return main(["convert", source, *arguments, "--out", str(out)])


def converted(source: str, out: Path, **options) -> Converted:
    """What a run that must succeed wrote."""
    assert run_convert(source, out, **options) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    summary = json.loads(Path(f"{out}.summary.json").read_text())
    info = json.loads((out.parent / "dataset_info.json").read_text())
    return Converted(rows, summary, info)
