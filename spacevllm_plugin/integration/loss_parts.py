"""What the loss is made of, in LLaMA-Factory's log of a run, its pictures and LlamaBoard's."""

import json
from functools import partial
from pathlib import Path
from typing import Any


PREFIX = "loss_"
# Told apart by colour-blind readers, too (Okabe and Ito).
COLORS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def parts_of(log: dict[str, Any]) -> dict[str, float]:
    """The parts of the loss in one entry of a log, by name."""
    return {name: value for name, value in log.items() if name.startswith(PREFIX)}


def names_in(logs: list[dict[str, Any]]) -> list[str]:
    """Names of the parts in a log, in order of appearance."""
    return list(dict.fromkeys(name for log in logs for name in parts_of(log)))


def keep_parts(callbacks: list[Any]) -> None:
    """Let LLaMA-Factory's `LogCallback`, which writes lines of names of its own, write the parts into them, too.

    Args:
        callbacks: A trainer's.
    """
    from llamafactory.train.callbacks import LogCallback

    for callback in callbacks:
        if isinstance(callback, LogCallback):
            _keep_parts(callback)


def _keep_parts(callback: Any) -> None:
    on_log, write_log = callback.on_log, callback._write_log

    def _on_log(args, state, control, **kwargs):
        # A line is written by another thread, by the function that stands here now.
        callback._write_log = partial(_write_with, write_log, parts_of(state.log_history[-1]))
        return on_log(args, state, control, **kwargs)

    callback.on_log = _on_log


def _write_with(write_log: Any, parts: dict[str, float], output_dir: str, logs: dict[str, Any]) -> None:
    write_log(output_dir, {**logs, **parts})


def draw_parts(figure: Any, trainer_log: list[dict[str, Any]]) -> None:
    """Draw the parts below the one curve of a figure; nothing where the log has none.

    Args:
        figure: A matplotlib figure with one axis, the loss over steps.
        trainer_log: Lines of `trainer_log.jsonl`.
    """
    from llamafactory.extras.ploting import smooth

    names = names_in(trainer_log)
    if not names:
        return

    (loss,) = figure.axes
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 2), hspace=0.08)
    loss.set_subplotspec(grid[0])
    loss.set_xlabel("")
    loss.tick_params(labelbottom=False)
    axis = figure.add_subplot(grid[1], sharex=loss)
    for number, name in enumerate(names):
        points = [(log["current_steps"], log[name]) for log in trainer_log if name in log]
        steps, values = zip(*points)
        color = COLORS[number % len(COLORS)]
        axis.plot(steps, values, color=color, alpha=0.3)
        axis.plot(steps, smooth(list(values)), color=color, label=name.removeprefix(PREFIX))

    axis.legend(ncols=2, fontsize="small")
    axis.set_xlabel("step")
    axis.set_ylabel("parts")


def plot_with_parts(plot_loss: Any, folder: str, keys: list[str]) -> None:
    """LLaMA-Factory's `plot_loss`, for the parts as well where a run has logged any."""
    state = json.loads((Path(folder) / "trainer_state.json").read_text(encoding="utf-8"))
    plot_loss(folder, keys=[*keys, *names_in(state["log_history"])])
