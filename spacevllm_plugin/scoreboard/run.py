"""One benchmark from raw files to its report, so that it can be killed anywhere and started again."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..converters.writer import convert, summary_path
from ..data.jsonl import append_lines
from ..data.output import appended, replaced
from ..inference.predictor import finished, predict_rows
from .folder import RunFolder
from .ranks import Ranks
from .report import write_report


if TYPE_CHECKING:
    from ..inference.engine import Engine


@dataclass
class Run(RunFolder):
    """A benchmark, a model and a folder.

    Attributes:
        ranks: The processes that share the work.
    """

    ranks: Ranks = Ranks()

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

    def _convert(self) -> None:
        """Rows of each part, unless an earlier session has written them (the summary comes last)."""
        for source in self.sources():
            file = self.rows_file(source)
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
