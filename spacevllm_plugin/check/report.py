"""What a check has found: counts and first examples by kind, as a table and as JSON."""

from dataclasses import dataclass, field
from typing import Any

from ..data.shortened import shortened


EXAMPLES = 3
EXAMPLE_WIDTH = 160


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one row.

    Attributes:
        kind: For instance `media-missing` or `span-reversed`.
        message: One line.
        repaired: Whether it can be put right safely.
    """

    kind: str
    message: str
    repaired: bool = False


@dataclass
class Report:
    """Counts over a file.

    Attributes:
        rows: Lines that are not blank.
        good: Rows without a problem.
        repaired: Rows of which every problem can be put right.
        dropped: The others.
        media: Distinct media files (a folder or list of frame images counts as one): `files` in all, of which
            `examined` in this run, `remembered` from an earlier one, or `unusable` (missing, empty, broken).
        problems: By kind: `count` of rows, `repaired` of them, and the first `examples`.
    """

    rows: int = 0
    good: int = 0
    repaired: int = 0
    dropped: int = 0
    media: dict[str, int] = field(default_factory=dict)
    problems: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, line: int, row_id: str | None, problems: list[Problem]) -> None:
        """Count one row; its line number is 1-based."""
        self.rows += 1
        if not problems:
            self.good += 1
        elif all(problem.repaired for problem in problems):
            self.repaired += 1
        else:
            self.dropped += 1

        for problem in problems:
            entry = self.problems.setdefault(problem.kind, {"count": 0, "repaired": 0, "examples": []})
            entry["count"] += 1
            entry["repaired"] += problem.repaired
            if len(entry["examples"]) < EXAMPLES:
                entry["examples"].append({"line": line, "id": row_id, "message": problem.message})

    def as_json(self) -> dict[str, Any]:
        """The whole report, most frequent kinds first."""
        ordered = sorted(self.problems.items(), key=lambda item: (-item[1]["count"], item[0]))
        return {
            "rows": self.rows,
            "good": self.good,
            "repaired": self.repaired,
            "dropped": self.dropped,
            "media": self.media,
            "problems": dict(ordered),
        }

    def table(self) -> str:
        """Kind, rows, repairable rows and first examples, most frequent kinds first; empty without problems."""
        if not self.problems:
            return ""

        problems = self.as_json()["problems"]
        width = max(len("problem"), *map(len, problems))
        lines = [f"{'problem':<{width}}  {'rows':>7}  {'repairable':>10}  first examples"]
        for kind, entry in problems.items():
            head = f"{kind:<{width}}  {entry['count']:>7}  {entry['repaired']:>10}  "
            for example in entry["examples"]:
                row_id = None if example["id"] is None else shortened(example["id"])
                text = f"line {example['line']}, id {row_id}: {example['message']}"
                lines.append(head + (text if len(text) <= EXAMPLE_WIDTH else text[: EXAMPLE_WIDTH - 1] + "…"))
                head = " " * len(head)

        return "\n".join(lines)
