"""The same rows for both loaders, ours and LLaMA-Factory's own for its own template, and how a process of either is watched."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any


OURS, THEIRS = "spacevllm_qwen3_vl", "qwen3_vl_nothink"
SHAREGPT = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "videos": "videos"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}
# Every process of both sides writes down which videos it opens.
SITE = """
import os
from wrapt import register_post_import_hook, wrap_function_wrapper

def opened(call, _, args, kwargs):
    # A line is one write: forked processes share the file.
    os.write(log, f"{args[0]}\\n".encode() if isinstance(args[0], str) else b"?\\n")
    return call(*args, **kwargs)

log = os.open(os.environ["OPENED_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
register_post_import_hook(lambda av: wrap_function_wrapper(av, "open", opened), "av")
"""


def write_rows(folder: Path, videos: list[Path], rows: list[dict[str, Any]], count: int, seed: int = 0) -> None:
    """Rows about videos in no order, as `ours` and as `theirs` in dataset_info.json.

    Args:
        folder: Where; the videos lie below it.
        videos: The files; the row of each is as that of the one it is a copy of.
        rows: A row for each of `videos`, by its place modulo their number.
        count: Rows to write.
        seed: Of their order.
    """
    order = [number % len(videos) for number in range(count)]
    random.Random(seed).shuffle(order)
    with open(folder / "ours.jsonl", "w") as ours, open(folder / "theirs.jsonl", "w") as theirs:
        for number, place in enumerate(order):
            row = rows[place % len(rows)]
            user, answer = row["messages"]
            turns = [{**user, "content": f"{user['content']} ({number})"}, answer]
            video = str(videos[place].relative_to(folder))
            ours.write(json.dumps({**row, "id": str(number), "messages": turns, "videos": [video]}) + "\n")
            theirs.write(json.dumps({"messages": turns, "videos": [video]}) + "\n")

    info = {"ours": {"file_name": "ours.jsonl", "formatting": "spacevllm"}}
    info["theirs"] = {"file_name": "theirs.jsonl", **SHAREGPT}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def copies(originals: list[Path], folder: Path, count: int) -> list[Path]:
    """Files of their own, so that each has to be looked at."""
    folder.mkdir()
    paths = [folder / f"{number:06}{originals[0].suffix}" for number in range(count)]
    for number, path in enumerate(paths):
        shutil.copyfile(originals[number % len(originals)], path)

    return paths


def recipe(model: Path, data: Path, out: Path, side: str, **options: Any) -> dict[str, Any]:
    """LLaMA-Factory's arguments of a side, `ours` or `theirs`."""
    return {
        "model_name_or_path": str(model),
        "template": OURS if side == "ours" else THEIRS,
        "dataset_dir": str(data),
        "media_dir": str(data),
        "dataset": side,
        "output_dir": str(out / side),
        "cache_dir": str(out / "cache"),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "freeze_vision_tower": False,
        "cutoff_len": 131072,
        "overwrite_cache": True,
        "report_to": "none",
        "use_cpu": True,
        **options,
    }


@dataclass
class Watched:
    """What a command did.

    Attributes:
        said: The last line that it printed.
        opened: How often it, or a process of its own, opened each video.
        memory: Seconds of the clock, and MiB that its processes had for themselves then.
    """

    said: str
    opened: Counter[str]
    memory: list[tuple[float, float]]

    @property
    def answer(self) -> Any:
        """What it said, as JSON."""
        return json.loads(self.said)

    @property
    def peak(self) -> float:
        """Most memory of all."""
        return max(mib for _, mib in self.memory)

    def mib(self, begin: float, end: float) -> float:
        """Most memory in a span of the clock, or next to it where nobody looked meanwhile."""
        nearest = min(self.memory, key=lambda look: abs(look[0] - (begin + end) / 2))
        return max([mib for moment, mib in self.memory if begin <= moment <= end], default=nearest[1])

    def growth(self, begin: float, end: float) -> float:
        """Most memory in the last fifth of a span over the most in its second: 1 where it is flat."""
        fifth = (end - begin) / 5
        return self.mib(end - fifth, end) / self.mib(begin + fifth, begin + 2 * fifth)


def watch(command: list[str], folder: Path, plugin: bool, every: float = 1.0) -> Watched:
    """Run a command of Python's, count the videos that it opens, and look at its memory.

    Args:
        command: Arguments of the interpreter.
        folder: For files in between.
        plugin: Whether LLaMA-Factory is hooked.
        every: Seconds between two looks.
    """
    site, log = folder / "site", folder / "opened.log"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE)
    log.write_text("")
    paths = os.pathsep.join([str(site), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "OPENED_LOG": str(log), "HF_HUB_OFFLINE": "1"}
    env |= {"TQDM_DISABLE": "1"} if plugin else {"TQDM_DISABLE": "1", "SPACEVLLM_DISABLE": "1"}
    process = subprocess.Popen(
        [sys.executable, *command], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    memory: list[tuple[float, float]] = []

    def look() -> None:
        while process.poll() is None:
            memory.append((time.time(), _private(process.pid) / 2**20))
            time.sleep(every)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    out, err = process.communicate()
    looking.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{out[-2000:]}{err[-4000:]}")

    return Watched(out.strip().splitlines()[-1], Counter(log.read_text().splitlines()), memory)


def _private(pid: int) -> float:
    """Bytes of a process and those that it has started, without mapped files; what several share counts once."""
    total = 0.0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                total += int(line.split()[1]) * 1024

        children = [
            child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
        ]
    except OSError:  # it has just ended
        return total

    return total + sum(_private(int(child)) for child in children)
