"""Hook on `webui.components.data`: "Preview dataset" shows rows in our format as pictures, as many a page as ever."""

import json
import os
from collections.abc import Iterator
from functools import wraps
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import gradio as gr
from PIL import Image

from ...data.jsonl import filled_lines
from ...data.media import locate
from ...data.schema import AnnotationRow, RowError, parse_row
from ...data.video import MediaError
from ...inference.draw_row import draw_row
from ...inference.render import tube_from_target
from ..converter import FORMATTING
from .blocks import move_before


def our_files(dataset_dir: str, dataset: list[str], infos: dict[str, Any]) -> list[str] | None:
    """The files of the data set that the page previews, the first chosen; None where it is not in our format."""
    info = infos.get(dataset[0], {}) if dataset else {}
    if info.get("formatting") != FORMATTING or "file_name" not in info:
        return None

    path = os.path.join(dataset_dir, info["file_name"])
    return [os.path.join(path, name) for name in sorted(os.listdir(path))] if os.path.isdir(path) else [path]


def rows_of(files: list[str]) -> Iterator[tuple[str, bytes | dict[str, Any]]]:
    """Where each row stands, and the row: a line of JSONL, or one of a JSON list."""
    for name in files:
        base = os.path.basename(name)
        with open(name, "rb") as file:
            if name.endswith(".json"):
                yield from ((f"{base}, row {number}", row) for number, row in enumerate(json.load(file), start=1))
            else:
                yield from ((f"{base}:{line.number}", line.text) for line in filled_lines(file))


def located(row: AnnotationRow, folders: list[str]) -> AnnotationRow:
    """The row with its media's paths as training finds them."""

    def place(media: Any) -> Any:
        return locate(media, folders) if isinstance(media, str) else [place(item) for item in media]

    return row.model_copy(
        update={"images": row.images and place(row.images), "videos": row.videos and place(row.videos)}
    )


def draw(data: bytes | dict[str, Any], where: str, folders: list[str]) -> tuple[Image.Image | None, str]:
    """A row's picture, and the line that goes with it; no picture where the row has no media, or cannot be used."""
    try:
        row = parse_row(data, where=where)
        line = f"{where} (id {row.id}): {row.messages[-1].content}"
        if not (row.images or row.videos):
            return None, line

        with TemporaryDirectory() as folder:
            tubes = [tube_from_target(row)] if row.target else []
            (picture,) = draw_row(located(row, folders), tubes, Path(), Path(folder) / "row")
            with Image.open(picture) as image:
                return image.convert("RGB"), line
    except RowError as err:
        return None, f"⚠ {err}"
    except (MediaError, OSError) as err:
        return None, f"⚠ {where}: {err}"


def install(module: ModuleType) -> None:
    """Wrap what counts the rows and what builds the preview."""
    get_preview, create_preview_box = module.get_preview, module.create_preview_box

    def find_files(dataset_dir, dataset):
        with open(os.path.join(dataset_dir, module.DATA_CONFIG), encoding="utf-8") as file:
            return our_files(dataset_dir, dataset, json.load(file))

    @wraps(get_preview)
    def _get_preview(dataset_dir, dataset, page_index):
        files = find_files(dataset_dir, dataset)
        if files is None:
            return get_preview(dataset_dir, dataset, page_index)

        # The rows themselves are `show`'s.
        return sum(1 for _ in rows_of(files)), [], gr.Column(visible=True)

    def show(dataset_dir, dataset, page_index):
        files = find_files(dataset_dir, dataset)
        first = module.PAGE_SIZE * page_index
        folders = [dataset_dir, os.path.dirname(files[0])] if files else []
        rows = islice(rows_of(files or []), first, first + module.PAGE_SIZE)
        pairs = [draw(data, where, folders) for where, data in rows]
        updates = []
        for picture, line in [*pairs, *[(None, None)] * (module.PAGE_SIZE - len(pairs))]:
            updates += [gr.Image(value=picture, visible=picture is not None)]
            updates += [gr.Markdown(value=line, visible=line is not None)]

        return [*updates, gr.JSON(visible=files is None)]

    @wraps(create_preview_box)
    def _create_preview_box(dataset_dir, dataset):
        elems = create_preview_box(dataset_dir, dataset)
        samples = elems["preview_samples"]
        slots = []
        for _ in range(module.PAGE_SIZE):
            slots += [gr.Image(visible=False, show_label=False, interactive=False), gr.Markdown(visible=False)]

        for block in slots:
            move_before(block, samples.parent)

        for event in (elems["data_preview_btn"].click, elems["page_index"].change):
            event(show, [dataset_dir, dataset, elems["page_index"]], [*slots, samples], concurrency_limit=None)

        return elems

    module.get_preview, module.create_preview_box = _get_preview, _create_preview_box
