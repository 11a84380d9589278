"""What a check has found so far: JSON for machines, a page for people, both whole after every step."""

import json
import os
from pathlib import Path
from typing import Any


def names(title: str) -> tuple[str, str, str]:
    """The files of a report: JSON, page, and all that was printed."""
    name = title.lower().replace(" ", "_")
    return f"{name}.json", f"{name}.md", f"{name}.log"


def write(out: Path, report: dict[str, Any]) -> None:
    """Write both files."""
    json_name, page_name, _ = names(report["title"])
    write_whole(out / json_name, json.dumps(report, indent=2) + "\n")
    write_whole(out / page_name, page(report))


def write_whole(path: Path, text: str) -> None:
    """Write a file that whoever reads it, or ends this process, finds as it was before or as it is to be."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def page(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    steps = report["steps"]
    figures = {step["name"]: step["figures"] for step in steps if step.get("figures")}
    parts = [
        f"# {report['title']}" + (" (dry, tiny shapes on a CPU: the figures mean nothing)" if report["dry"] else "")
    ]
    if "machine" in figures:
        parts.append(_machine(figures["machine"]))

    rows = [[step["name"], step["outcome"], _number(step["seconds"], 1), step["last_line"]] for step in steps]
    parts.append(_table(["step", "outcome", "seconds", "last line"], rows))
    shapes = [one for one in figures.values() if "train" in one]
    if shapes:
        parts.append(_shapes(shapes))

    parts += [_claim(one) for one in figures.values() if "claim" in one]
    if "quickstart" in figures:
        parts.append(_quickstart(figures["quickstart"]))

    return "\n\n".join(parts) + "\n"


def _machine(facts: dict[str, Any]) -> str:
    gpu = facts["gpu"]
    if facts["gpu_memory_gib"]:
        gpu += f", {facts['gpu_memory_gib']} GiB, driver {facts['driver']}, CUDA {facts['cuda']}"

    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{gpu}; Python {facts['python']}; {versions}."


def _shapes(shapes: list[dict[str, Any]]) -> str:
    head = ["shape", "", "tokens", "seconds", "plain", "ratio", "peak GiB", "plain", "ratio"]
    rows, notes = [], []
    for shape in shapes:
        for kind, name in (("train", "training step, LoRA"), ("ground", "`ground`")):
            one = shape[kind]
            tokens = one.get("tokens", {}).get("ours", f"{one.get('new_tokens')} new")
            line = [shape["shape"], name, str(tokens)]
            for unit, digits in (("seconds", 3), ("peak_gib", 2)):
                line += [_number(one[side][unit], digits) for side in ("ours", "plain", "ratio")]

            rows.append(line)

        notes.append(
            f"{shape['shape']}: {shape['parameters'] / 1e6:,.1f} million random parameters, for {shape['hub_id']}; "
            f"{shape['frames']} frames of {shape['side']} x {shape['side']}, {shape['queries']} queries; "
            f"{shape['attention']}; reading the frames takes {shape['ground']['reading_seconds']:.3f} s of both `ground`s."
        )

    return _table(head, rows) + "\n\n" + "\n".join(f"- {note}" for note in notes)


def _claim(found: dict[str, Any]) -> str:
    """The table of a script that measures one claim, see `claims.report`."""
    asked = {name: value for name, value in found["asked"].items() if name != "out"}
    said = {**asked, "device": found["device"], **found["versions"], **found["facts"]}
    head = list(found["rows"][0])
    rows = [[cell(row[name]) for name in head] for row in found["rows"]]
    note = ", ".join(f"{name.replace('_', ' ')} {cell(value)}" for name, value in said.items())
    return f"## {found['claim']}\n\n{_table(head, rows)}\n\n{note}."


def cell(value: Any) -> str:
    """A value of a claim's table as text."""
    if value is None:
        return ""

    if isinstance(value, float):
        return f"{value:.3f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"

    return str(value)


def _quickstart(report: dict[str, Any]) -> str:
    metrics = ("m_tIoU", "m_sIoU", "m_vIoU")
    lines = {
        "held-out, best constant answer": report["chance"],
        "held-out, after LoRA and merge": report["heldout"],
        "shifted, before LoRA": report["shifted"]["before"],
        "shifted, after LoRA and merge": report["shifted"]["after"],
    }
    rows = [[name, *(_number(scores[metric], 3) for metric in metrics)] for name, scores in lines.items()]
    seconds = (
        f"{report['train_seconds']:.0f} s, LoRA {report['lora_seconds']:.0f} s, all {report['total_seconds']:.0f} s"
    )
    return f"Quickstart, {report['backbone']}: full training {seconds}.\n\n" + _table(["", *metrics], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
