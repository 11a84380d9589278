"""One benchmark from raw files to its report, so that it can be killed anywhere and started again."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..converters.writer import convert, summary_path
from ..data.jsonl import append_lines
from ..data.output import appended, replaced
from ..inference.predictor import finished, predict_rows
from .folder import RunFolder
from .ranks import Ranks
from .report import write_report


if TYPE_CHECKING:
    from ..distributed.rounds import Crew
    from ..distributed.worker import Work
    from ..inference.engine import Engine


@dataclass
class Run(RunFolder):
    """A benchmark, a model and a folder.

    Attributes:
        ranks: The processes that share the work.
        hire: Makes a crew that shares it instead, see `distributed.ground.predict_shared`; None without one.
        retries: Further tries of what fails in a crew.
        tell: Gets a line for each.
    """

    ranks: Ranks = Ranks()
    hire: Callable[[Callable[[], "Work"]], "Crew"] | None = None
    retries: int = 0
    tell: Callable[[str], None] = lambda line: None
    _workers: int = field(default=0, init=False)

    def __call__(self, engine: Callable[[], "Engine"]) -> dict[str, Any] | None:
        """Convert, predict, score, report.

        Args:
            engine: Loads the model; called only if predictions are missing, and pickled for a crew.

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
            if self.hire is None:
                self._predict(engine(), done)
            else:
                self._predict_shared(engine, done)

            self.ranks.wait()

        if not self.ranks.first:
            return None

        answered = self._merge()
        report = write_report(self)
        with appended(self.out / "sessions.jsonl") as file:
            session = {
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                "seconds": round(time.time() - started, 1),
                "processes": self._workers or self.ranks.world,
                "predicted": answered - len(done),
            }
            append_lines(file, [json.dumps(session)])

        return report

    def _convert(self) -> None:
        """Rows of each part, unless an earlier session has written them (the summary comes last)."""
        for source in self.sources():
            file = self.rows_file(source)
            if not (file.exists() and summary_path(file).exists()):
                convert(source, file)

    def _predict(self, engine: "Engine", done: set[str]) -> None:
        self._sees(engine.sampling)
        rank, world = self.ranks.rank, self.ranks.world
        sizes = self.settings.batch_size, self.settings.max_new_tokens
        predict_rows(engine, self.rows(), self.media_dir, self._part(rank), *sizes, done, (rank, world))

    def _predict_shared(self, load: Callable[[], "Engine"], done: set[str]) -> None:
        from ..distributed.ground import predict_shared

        def hire(make: Callable[[], "Work"]) -> "Crew":
            crew = self.hire(make)
            self._workers = crew.size
            return crew

        sizes = self.settings.batch_size, self.settings.max_new_tokens
        again = self.retries, self.tell
        predict_shared(hire, load, self.rows(), self.media_dir, self._part(0), *sizes, *again, done, self._sees)

    def _part(self, rank: int) -> Path:
        return self.out / f"predictions.part{rank}.jsonl"

    def _sees(self, sampling: dict[str, Any]) -> None:
        if self.settings.sampling != sampling:
            self.settings.sampling = sampling
            if self.ranks.first:
                self.settings.save(self.out / "settings.json")

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
