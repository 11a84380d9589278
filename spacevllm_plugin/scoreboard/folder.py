"""A benchmark's folder: where its rows, predictions and reports lie, and what they are."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..converters.writer import summary_path
from ..data.schema import AnnotationRow, read_rows
from .catalogue import Benchmark
from .settings import Settings


@dataclass
class RunFolder:
    """What is run, what it is run with, and where.

    Attributes:
        benchmark: What is run.
        settings: What it is run with.
        data_dir: Holds `raw` and `media`.
        out: Folder of the run: `rows/`, `predictions.jsonl`, `settings.json`, `sessions.jsonl`, `report.json`,
            `report.md`, `figures/`, `worst/`.
    """

    benchmark: Benchmark
    settings: Settings
    data_dir: Path
    out: Path

    @property
    def media_dir(self) -> Path:
        """Where the rows' paths start."""
        return self.data_dir / "media"

    @property
    def predictions(self) -> Path:
        """All predictions of earlier sessions; at the end of all rows, in their order."""
        return self.out / "predictions.jsonl"

    def rows(self) -> Iterator[AnnotationRow]:
        """The rows of all parts in order, up to the limit."""
        files = [self.rows_file(source) for source in self.sources()]
        return islice((row for file in files for row in read_rows(file)), self.settings.limit)

    def summaries(self) -> dict[str, dict]:
        """What became of the raw items: for each part the counts of its conversion."""
        parts = {}
        for source in self.sources():
            summary = json.loads(summary_path(self.rows_file(source)).read_text(encoding="utf-8"))
            parts[source.dataset] = {name: summary[name] for name in ("rows", "repaired", "dropped")}
            if source.note:
                parts[source.dataset]["note"] = source.note

        return parts

    def sources(self) -> list:
        """The parts of the benchmark, each a converter's source."""
        return self.benchmark.sources(self.data_dir / "raw", self.media_dir)

    def rows_file(self, source: Any) -> Path:
        """Where a part's rows lie."""
        return self.out / "rows" / f"{source.dataset}.jsonl"
