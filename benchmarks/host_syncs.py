"""Where a training step makes the host wait for the GPU: the places, and how often in each step.

`python benchmarks/host_syncs.py [--size tiny|100m|7b --shape qwen3_vl_4b]` trains three steps of a row each by LLaMA-Factory's
own trainer, and listens (`torch.cuda.set_sync_debug_mode`) from the end of the second to the end of the third: all that
a step in the middle of a run does, fetching its batch included, but for logging, which is due every so many steps. A place is
the innermost line of this package that was at work, or else of whoever's. Without CUDA nothing is heard.
"""

import traceback
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gpu.asked import name_of, write_asked
from gpu.claims import command_line, report, setting
from gpu.engines import device
from transformers import TrainerCallback


ROOT = Path(__file__).parents[1]
PACKAGE = str(ROOT / "spacevllm_plugin")
FOREIGN = "site-packages"
WORD = "synchronizing CUDA operation"
STEPS = 3


class Heard(Exception):
    """All is known: what follows the last step would only write the model."""


class Listener(TrainerCallback):
    """Counts the places during the last step."""

    def __init__(self) -> None:
        self.places: Counter[tuple[str, str, str]] = Counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin behind the step before the last, and end behind the last."""
        if state.global_step == STEPS - 1:
            self._show, warnings.showwarning = warnings.showwarning, self._hear
            warnings.filterwarnings("always", message=f".*{WORD}")
            self._mode("warn")
        elif state.global_step == STEPS:
            self._mode("default")
            warnings.showwarning = self._show
            raise Heard

    def _mode(self, name: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode(name)

    def _hear(self, message: Any, *args: Any, **kwargs: Any) -> None:
        if WORD not in str(message):
            self._show(message, *args, **kwargs)
            return

        stack = traceback.extract_stack()[:-1]  # without this function
        stack = [frame for frame in stack if not frame.filename.endswith("warnings.py")]
        own = [frame for frame in stack if frame.filename.startswith(PACKAGE)]
        place = own[-1] if own else stack[-1]
        inner = stack[-1]
        self.places[_named(place), place.line, _named(inner)] += 1


def _named(frame: traceback.FrameSummary) -> str:
    name = frame.filename.split(f"{FOREIGN}/")[-1].removeprefix(f"{ROOT}/")
    return f"{name}:{frame.lineno}"


@contextmanager
def filled_in_place(workflow: Any) -> Any:
    """LLaMA-Factory's workflow with weights filled where they are used, not on the host."""
    load_model = workflow.load_model

    def load(*args: Any, **kwargs: Any) -> Any:
        with torch.device(device()):
            return load_model(*args, **kwargs)

    workflow.load_model = load
    try:
        yield
    finally:
        workflow.load_model = load_model


def main() -> None:
    """Listen and print a table."""
    parser = command_line(__doc__)
    parser.set_defaults(shape="qwen3_vl_4b")
    args = parser.parse_args()
    listener = Listener()
    with setting(args) as chosen:
        from llamafactory.hparams import get_train_args
        from llamafactory.train.sft import workflow

        data = chosen.work / "data"
        write_asked(data, chosen.side, chosen.frames, sentences=STEPS)
        steps = {"max_steps": STEPS, "logging_steps": 10 * STEPS, "gradient_accumulation_steps": 1}
        run = chosen.training_run(dataset_dir=str(data), dataset=name_of(data), dataloader_num_workers=0, **steps)
        try:
            with filled_in_place(workflow):
                workflow.run_sft(*get_train_args(run), callbacks=[listener])
        except Heard:
            pass

    found = listener.places.most_common()
    rows = [
        {"place": place, "times": times, "innermost": inner, "line": line} for (place, line, inner), times in found
    ]
    nothing = [{"place": "nowhere", "times": 0, "innermost": "", "line": ""}]
    report(args, "host syncs in one training step", rows or nothing, frames=chosen.frames)


if __name__ == "__main__":
    main()
