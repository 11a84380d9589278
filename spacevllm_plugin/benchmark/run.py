"""One benchmark from raw files to its report, so that it can be killed anywhere and started again."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.converters.writer import convert, summary_path
from ..data.jsonl import append_lines
from ..data.output import appended, replaced
from ..data.schema import AnnotationRow, read_rows
from ..inference.predictor import finished, predict_rows
from .catalogue import Benchmark
from .ranks import Ranks
from .report import write_report
from .settings import Settings


if TYPE_CHECKING:
    from ..inference.engine import Engine


@dataclass
class Run:
    """A benchmark, a model and a folder.

    Attributes:
        benchmark: What is run.
        settings: What it is run with.
        data_dir: Holds `raw` and `media`.
        out: Folder of the run: `rows/`, `predictions.jsonl`, `settings.json`, `sessions.jsonl`, `report.json`,
            `report.md`, `figures/`, `worst/`.
        ranks: The processes that share the work.
    """

    benchmark: Benchmark
    settings: Settings
    data_dir: Path
    out: Path
    ranks: Ranks = Ranks()

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
        files = [self._rows_file(source) for source in self._sources()]
        return islice((row for file in files for row in read_rows(file)), self.settings.limit)

    def __call__(self, engine: Callable[[], "Engine"]) -> dict[str, Any] | None:
        """Convert, predict, score, report.

        Args:
            engine: Loads the model; called only if predictions are missing.

        Returns:
            The report; None in processes but the first.

        Raises:
            SourceError: The raw files cannot be used.
            SettingsError: The folder holds a run with other settings.
        """
        started = time.time()
        self.settings = self.settings.take_up(self.out / "settings.json")
        if self.ranks.first:
            self._convert()
            self._merge()

        self.ranks.wait()
        done = {row_id for row_id, _ in finished(self.predictions)}
        if not all(row.id in done for row in self.rows()):
            self.settings.check_versions()
            loaded = engine()
            self.settings.sampling = sampling(loaded)
            if self.ranks.first:
                self.settings.save(self.out / "settings.json")

            self._predict(loaded, done)
            self.ranks.wait()

        if not self.ranks.first:
            return None

        answered = self._merge()
        report = write_report(self)
        with appended(self.out / "sessions.jsonl") as file:
            session = {
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                "seconds": round(time.time() - started, 1),
                "processes": self.ranks.world,
                "predicted": answered - len(done),
            }
            append_lines(file, [json.dumps(session)])

        return report

    def summaries(self) -> dict[str, dict]:
        """What became of the raw items: for each part the counts of its conversion."""
        parts = {}
        for source in self._sources():
            summary = json.loads(summary_path(self._rows_file(source)).read_text(encoding="utf-8"))
            parts[source.dataset] = {name: summary[name] for name in ("rows", "repaired", "dropped")}
            if source.note:
                parts[source.dataset]["note"] = source.note

        return parts

    def _sources(self) -> list:
        return self.benchmark.sources(self.data_dir / "raw", self.media_dir)

    def _rows_file(self, source: Any) -> Path:
        return self.out / "rows" / f"{source.dataset}.jsonl"

    def _convert(self) -> None:
        """Rows of each part, unless an earlier session has written them (the summary comes last)."""
        for source in self._sources():
            file = self._rows_file(source)
            if not (file.exists() and summary_path(file).exists()):
                convert(source, file)

    def _predict(self, engine: "Engine", done: set[str]) -> None:
        rank, world = self.ranks.rank, self.ranks.world
        predict_rows(
            engine,
            self.rows(),
            self.media_dir,
            self.out / f"predictions.part{rank}.jsonl",
            self.settings.batch_size,
            self.settings.max_new_tokens,
            done,
            (rank, world),
        )

    def _merge(self) -> int:
        """Bring what the processes of this or an earlier session wrote into one file, in the rows' order.

        Returns:
            How many predictions there are.
        """
        parts = sorted(self.out.glob("predictions.part*.jsonl"))
        if not parts:
            return len(dict(finished(self.predictions)))

        lines: dict[str, bytes] = {}
        # A session killed between writing the whole and removing the parts leaves both: the first of each id counts.
        for file in (self.predictions, *parts):
            for row_id, line in finished(file):
                lines.setdefault(row_id, line)

        with replaced(self.predictions) as file:
            file.writelines(lines[row.id] for row in self.rows() if row.id in lines)

        for part in parts:
            part.unlink()

        return len(lines)


def sampling(engine: "Engine") -> dict[str, Any]:
    """What the model sees of a video: frames, pixels, and the options it was built with."""
    prompter = engine.prompter
    return {"preprocessing": vars(prompter.options).copy(), "grounding": prompter.grounding.as_dict()}
