"""Published figures to stand beside one's own; they are kept in `published.json`."""

import json
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Published:
    """One system on one benchmark.

    Attributes:
        system: Its name.
        benchmark: Name of the benchmark.
        group: Name of the group of rows that the figures are of.
        figures: Name -> fraction.
    """

    system: str
    benchmark: str
    group: str
    figures: dict[str, float]


def published(benchmark: str | None = None) -> list[Published]:
    """All published rows, or those of one benchmark."""
    data = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    rows = [Published(**row) for row in data["rows"]]
    return [row for row in rows if benchmark in (None, row.benchmark)]
