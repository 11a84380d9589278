"""Draws architecture.png from the order that tests/test_layout.py holds: `python docs/draw_architecture.py`."""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from test_layout import ORDER  # noqa: E402


SAYS = {
    "cli": "spacevllm-cli: one file per command",
    "lmms_eval": "model for lmms-eval",
    "integration": "hooks on LLaMA-Factory, the only folder that imports it",
    "demo": "the page to try a model on",
    "scoreboard": "a benchmark from raw files to its report",
    "exporters": "tubes in the formats of other tools",
    "serving": "exports, prompts and boxes for engines",
    "distributed": "work shared by workers that may die; Ray",
    "inference": "engine, grounding, predict, render",
    "backbones": "one room each: config, model, prompter, tiny",
    "unistg": "the data builder",
    "modeling": "queries, decoder, losses",
    "evaluation": "scores, protocols",
    "converters": "public sets into rows",
    "check": "checks and repairs rows",
    "data": "rows, prompts, plans, video, targets, outputs",
    "": "spacevllm_plugin.register",
    "bootstrap": "the .pth hook: what to do when LLaMA-Factory is imported",
    "backbones.registry": "finds the rooms",
    "backbones.spec": "what a room says",
    "trials": "does the environment work",
    "versions": "what is installed and promised",
}
WIDTH, HEIGHT, GAP = 12.0, 0.62, 0.2


def draw() -> Figure:
    """The parts, from the ground up; each may import what lies below it."""
    figure = Figure(figsize=(WIDTH, len(ORDER) * (HEIGHT + GAP) + 0.3), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, len(ORDER) * (HEIGHT + GAP) + 0.3)
    axes.axis("off")
    for floor, parts in enumerate(ORDER):
        width = (WIDTH - GAP) / len(parts) - GAP
        for column, part in enumerate(parts):
            left, bottom = GAP + column * (width + GAP), 0.2 + floor * (HEIGHT + GAP)
            colour = "#f6d5b8" if part == "integration" else "#dbe7f3"
            box = FancyBboxPatch((left, bottom), width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.08")
            box.set(facecolor=colour, edgecolor="#44546a", linewidth=1)
            axes.add_patch(box)
            middle = left + width / 2
            axes.text(middle, bottom + 0.41, part or "__init__", ha="center", va="center", weight="bold", size=11)
            axes.text(middle, bottom + 0.17, SAYS[part], ha="center", va="center", size=8.5, color="#333333")

    return figure


if __name__ == "__main__":
    draw().savefig(HERE / "architecture.png")
