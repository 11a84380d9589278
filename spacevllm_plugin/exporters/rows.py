"""Plain rows: predictions as they are (JSONL), and a table with a line a box (CSV)."""

import csv
import io
from typing import BinaryIO

from ..data.schema import dump_row
from .base import Exporter, TubeRecord


COLUMNS = ("id", "query", "media", "frame", "x1", "y1", "x2", "y2")


def dump_json(file: BinaryIO, tubes: list[TubeRecord]) -> None:
    """Write prediction rows."""
    for tube in tubes:
        file.write((dump_row(tube.prediction) + "\n").encode())


def dump_csv(file: BinaryIO, tubes: list[TubeRecord]) -> None:
    """Write one line for each native frame of each tube."""
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for tube in tubes:
        for frame, box in zip(tube.tube.frames.tolist(), tube.tube.boxes.tolist()):
            table.writerow([tube.id, tube.query, tube.name, frame, *box])

    text.detach()


JSON = Exporter("json", ".jsonl", "set", dump_json)
CSV = Exporter("csv", ".csv", "set", dump_csv)
