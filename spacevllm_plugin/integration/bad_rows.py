"""Rows that cannot be used: all of a run's data sets are looked through, then it stops or goes on without them."""

import json
from typing import Any

import pyarrow.compute as pc

from ..data.shortened import shortened


NAMED_ROWS = 50
# Option that decides about a row -> what its user can do.
MENDS = {
    "on_mismatch": (
        "Where rows and media do not fit each other, mend them (`spacevllm-cli check --fix` does what is safe), or set "
        "`on_mismatch: skip` to leave them out, or `trust` to train on them as they are."
    ),
    "bad_media": "Mend or remove them, or set `bad_media: skip` to leave them out.",
}


class BadRowsError(ValueError):
    """Rows that cannot be used; the message names them."""


class Examination:
    """The data sets of one run, examined one after the other.

    Args:
        num_sets: How many there are; the last one raises for all of them.
    """

    def __init__(self, num_sets: int = 1) -> None:
        self._waiting = num_sets
        self._complaints: list[str] = []
        self._stopped_by: set[str] = set()

    def sort_out(self, dataset: Any, policies: dict[str, str], is_eval: bool, unique_ids: bool, logger: Any) -> Any:
        """Leave out the rows of a tokenised data set that carry an error.

        Args:
            dataset: With the columns `error` (None for a good row) and `option`, which decides about it.
            policies: Option -> `stop` or `skip`.
            is_eval: Whether it is an evaluation set.
            unique_ids: Whether a row with the id of an earlier one is a bad row, too.
            logger: LLaMA-Factory's.

        Raises:
            BadRowsError: A policy is `stop`, and all sets have been looked through: it names the rows of all.
        """
        table = dataset.select_columns(["error", "option"]).with_format("arrow")[:]
        bad = table.filter(table["error"].is_valid()).to_pylist()
        good = pc.indices_nonzero(table["error"].is_null()).to_numpy().astype("int64")
        dataset = dataset.remove_columns(["error", "option"])
        if bad:
            dataset = dataset.select(good)

        repeated = repeated_ids(dataset) if unique_ids else {}
        if repeated:
            bad += [{"error": error, "option": "bad_media"} for error in repeated.values()]
            dataset = dataset.select([place for place in range(len(dataset)) if place not in repeated])

        self._judge(bad, len(table), policies, "evaluation " if is_eval else "", logger)
        return dataset

    def _judge(self, bad: list[dict], num_rows: int, policies: dict[str, str], kind: str, logger: Any) -> None:
        for policy in ("skip", "stop"):
            rows = [row for row in bad if policies[row["option"]] == policy]
            if not rows:
                continue

            named = "".join(f"\n  {row['error']}" for row in rows[:NAMED_ROWS])
            more = f"\n  … and {len(rows) - NAMED_ROWS} more" if len(rows) > NAMED_ROWS else ""
            summary = f"{len(rows)} of {num_rows} {kind}rows cannot be used:{named}{more}"
            options = {row["option"] for row in rows}
            if policy == "stop":
                self._complaints.append(summary)
                self._stopped_by |= options
            else:
                says = ", ".join(f"`{option}: skip`" for option in sorted(options))
                logger.warning_rank0(f"{summary}\nThey are left out ({says}).")

        self._waiting -= 1
        if self._complaints and self._waiting <= 0:
            mends = [mend for option, mend in MENDS.items() if option in self._stopped_by]
            raise BadRowsError("\n".join(self._complaints + mends))


def repeated_ids(dataset: Any) -> dict[int, str]:
    """Place and error of every row whose id an earlier row has: predictions are told apart by their ids."""
    seen: set[str] = set()
    errors = {}
    place = 0
    for batch in dataset.select_columns(["annotation"]).iter(batch_size=1000):
        for annotation in batch["annotation"]:
            row_id = json.loads(annotation)["id"] if annotation is not None else None
            if row_id in seen:
                errors[place] = f"id {shortened(row_id)}: an earlier evaluation row has the same id"
            elif row_id is not None:
                seen.add(row_id)

            place += 1

    return errors
