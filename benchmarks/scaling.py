"""What 1, 8, 64 and 512 GPUs would do: arithmetic from what one GPU was measured to do, every assumption named.

`python benchmarks/scaling.py [--page docs/scaling.md]` prints the tables, and puts them between that page's two marks. What was
measured is read from the table in docs/performance.md; nothing else here is a measurement.
"""

import argparse
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpu.shapes import SHAPES
from gpu.sizes import Sizes, sizes_of


ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- written by `make scaling` -->", "<!-- end of what `make scaling` writes -->"
GPUS = (1, 8, 64, 512)
GIB = 2**30


@dataclass(frozen=True)
class Assumptions:
    """What the arithmetic takes for granted. Bytes are of one parameter, speeds GB a second, one way."""

    lora_rank: int = 128  # as in the recipes
    frames: int = 64  # of the measured rows, 448 x 448 pixels
    side: int = 448
    gpus_a_node: int = 8
    node_link: float = 450.0  # of a GPU: NVLink of an H100 or H200, 900 both ways
    network_link: float = 50.0  # of a GPU's own network card: 400 Gbit/s
    link_share: float = 0.7  # of these that collectives reach
    rows_a_step: int = (
        32  # the recipes' batch, made up by accumulation where there are fewer GPUs; more GPUs: a row each
    )
    half: int = 2  # bf16
    single: int = 4  # fp32
    adam: int = 8  # two moments in fp32
    full_over_lora: float = 8 / 6  # passes over the weights: forward, again for checkpoints, states, and now weights
    live: int = 10**9  # parameters that ZeRO-3 may hold gathered (stage3_max_live_parameters)
    bucket: int = 5 * 10**8  # parameters in ZeRO-2's bucket, of which it holds one
    stepped: int = 10**9  # parameters that ZeRO-3 steps at a time (sub_group_size)
    row_mb: float = 6.0  # MB of video read for a row: 24 s at 2 Mbit/s
    rows: int = 480_000  # of an epoch
    gpu_gib: float = 139.8  # of the card that was measured


ASSUMED = Assumptions()


@dataclass(frozen=True)
class Measured:
    """One shape's lines in docs/performance.md, all of one GPU and one row.

    Attributes:
        tokens: Of the prompt.
        step: Seconds of a training step with LoRA.
        step_gib: Its peak memory.
        ground: Seconds of one `ground`.
    """

    tokens: int
    step: float
    step_gib: float
    ground: float


def measured(name: str, page: Path = MEASURED) -> Measured:
    """A shape's figures.

    Raises:
        ValueError: They are not there.
    """
    number = r"\s*([\d.]+)\s*\|"
    text = page.read_text(encoding="utf-8")
    step = re.search(
        rf"^\| {name} \| training step, LoRA \|{number}{number}[^|]*\|[^|]*\|{number}", text, re.MULTILINE
    )
    ground = re.search(rf"^\| {name} \| `ground` \|[^|]*\|{number}", text, re.MULTILINE)
    if step is None or ground is None:
        raise ValueError(f"{page} has no line of figures for {name}")

    tokens, seconds, peak = step.groups()
    return Measured(int(tokens), float(seconds), float(peak), float(ground.group(1)))


@cache
def sizes(name: str) -> Sizes:
    """A shape's sizes at the recipes' rank."""
    return sizes_of(SHAPES[name], ASSUMED.lora_rank)


# Memory: bytes on each GPU before anything is computed.


def lora_bytes(own: Sizes, gpus: int) -> float:
    """DDP: frozen weights in bf16; adapters and heads in fp32 with gradients and moments, and the buckets of several."""
    trained = ASSUMED.single + ASSUMED.single + ASSUMED.adam + (ASSUMED.single if gpus > 1 else 0)
    return (own.total - own.heads) * ASSUMED.half + own.lora * trained


def zero2_bytes(own: Sizes, gpus: int) -> float:
    """Weights in bf16 on each; gradients in bf16, masters and moments in fp32, in shares; one bucket."""
    shared = ASSUMED.half + ASSUMED.single + ASSUMED.adam
    return own.total * ASSUMED.half + own.full * shared / gpus + ASSUMED.bucket * ASSUMED.half


def zero3_bytes(own: Sizes, gpus: int) -> float:
    """As ZeRO-2, weights in shares too, and those that are gathered at a time."""
    shared = ASSUMED.half + ASSUMED.single + ASSUMED.adam
    gathered = min(ASSUMED.live, own.total) * ASSUMED.half if gpus > 1 else 0
    return own.total * ASSUMED.half / gpus + own.full * shared / gpus + gathered


def fsdp_bytes(own: Sizes, gpus: int) -> float:
    """Trained weights and gradients in fp32 and moments, in shares; frozen ones in bf16; two layers gathered in bf16."""
    shared = ASSUMED.single + ASSUMED.single + ASSUMED.adam
    gathered = 2 * own.full / own.layers * ASSUMED.half if gpus > 1 else 0
    return ((own.total - own.full) * ASSUMED.half + own.full * shared) / gpus + gathered


def stepping_bytes(mode: str, own: Sizes, gpus: int) -> float:
    """What the optimizer's step holds besides, when there are no states: DeepSpeed's gradients in fp32."""
    share = own.full / gpus
    copied = {"full, ZeRO-2": share, "full, ZeRO-3": min(share, ASSUMED.stepped)}
    return copied.get(mode, 0) * ASSUMED.single


MEMORY = {"LoRA, DDP": lora_bytes, "full, ZeRO-2": zero2_bytes, "full, ZeRO-3": zero3_bytes, "full, FSDP": fsdp_bytes}


def rest_gib(name: str) -> float:
    """What the measured peak of LoRA leaves for states, gradients of them, and the vision tower's."""
    return measured(name).step_gib - lora_bytes(sizes(name), 1) / GIB


def token_bytes(own: Sizes) -> int:
    """Keys and values of one token."""
    return 2 * own.layers * own.kv_width * ASSUMED.half


# The network: bytes that each GPU sends, and as many that it receives, by ring collectives.


def accumulation(gpus: int) -> int:
    """Rows that each GPU computes before an optimizer step."""
    return max(1, math.ceil(ASSUMED.rows_a_step / gpus))


def sent_bytes(mode: str, own: Sizes, gpus: int) -> float:
    """Of one optimizer step."""
    ring = (gpus - 1) / gpus
    if mode == "LoRA, DDP":  # an all-reduce of fp32 gradients, with the last row's
        return 2 * ring * own.lora * ASSUMED.single

    reduced = ring * own.full * ASSUMED.half * accumulation(gpus)  # a reduce-scatter with every row
    if mode == "full, ZeRO-2":  # and the new weights once
        return reduced + ring * own.full * ASSUMED.half

    # Weights are gathered for the forward pass of every row, and again for the backward.
    return reduced + 2 * ring * own.total * ASSUMED.half * accumulation(gpus)


def link(gpus: int) -> float:
    """Bytes a second that each GPU sends in a ring. Between nodes there is a ring for each card, and a part of the data in each."""
    network = ASSUMED.network_link * ASSUMED.gpus_a_node
    speed = ASSUMED.node_link if gpus <= ASSUMED.gpus_a_node else min(ASSUMED.node_link, network)
    return speed * 1e9 * ASSUMED.link_share


def step_seconds(mode: str, name: str, gpus: int) -> tuple[float, float]:
    """An optimizer step where all of the network's time is hidden behind computing, and where none is."""
    row = measured(name).step * (1.0 if mode == "LoRA, DDP" else ASSUMED.full_over_lora)
    computing, sending = row * accumulation(gpus), sent_bytes(mode, sizes(name), gpus) / link(gpus)
    return max(computing, sending), computing + sending


def rows_per_second(mode: str, name: str, gpus: int) -> tuple[float, float]:
    """As `step_seconds`: the most, and the least."""
    rows = gpus * accumulation(gpus)
    most, least = (rows / seconds for seconds in step_seconds(mode, name, gpus))
    return most, least


# Tables.


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Markdown."""
    lines = [tuple(head)]
    lines.append(("---",) * len(lines[0]))
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [*lines, *rows])


def gpus_head(gpus: int) -> str:
    """A column's title."""
    return f"{gpus} GPU{'s' * (gpus > 1)}"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def pair(values: tuple[float, float]) -> str:
    """Two numbers, or one where they come to the same."""
    most, least = map(number, values)
    return most if most == least else f"{least} to {most}"


def sizes_table() -> str:
    """Parameters and bytes of each shape."""
    head = [
        "shape",
        "parameters",
        "queries and decoder",
        "trained: LoRA",
        "trained: full",
        "KiB of keys and values a token",
        "GiB of a row's states, measured",
    ]
    return table(
        head,
        (
            [
                name,
                f"{sizes(name).total / 1e9:.2f} G",
                f"{sizes(name).heads / 1e6:.1f} M",
                f"{sizes(name).lora / 1e6:.0f} M",
                f"{sizes(name).full / 1e9:.2f} G",
                number(token_bytes(sizes(name)) / 1024),
                f"{rest_gib(name):.1f}",
            ]
            for name in SHAPES
        ),
    )


def memory_table() -> str:
    """GiB on each GPU; crossed out where it is more than the measured card has."""

    def cell(needs: float) -> str:
        return number(needs) if needs <= ASSUMED.gpu_gib else f"~~{number(needs)}~~"

    rows = []
    for name in SHAPES:
        for mode, bytes_of in MEMORY.items():
            peaks = []
            for gpus in GPUS:
                more = max(rest_gib(name), stepping_bytes(mode, sizes(name), gpus) / GIB)
                peaks.append(cell(bytes_of(sizes(name), gpus) / GIB + more))

            rows.append([name, mode, *peaks])

    return table(["shape", "training", *map(gpus_head, GPUS)], rows)


def speed_table() -> str:
    """Rows a second of all GPUs, and an epoch."""
    rows = []
    for name in SHAPES:
        for mode in MEMORY:
            speeds = [rows_per_second(mode, name, gpus) for gpus in GPUS]
            hours = [ASSUMED.rows / speed[1] / 3600 for speed in (speeds[0], speeds[-1])]
            rows.append([name, mode, *map(pair, speeds), f"{number(hours[0])} h, {number(hours[1])} h"])

    head = ["shape", "training", *map(gpus_head, GPUS), "epoch at 1 and at 512, slower case"]
    return table(head, rows)


def network_table() -> str:
    """GB that each GPU sends in a step."""
    rows = []
    for name in SHAPES:
        for mode in MEMORY:
            cells = []
            for gpus in GPUS[1:]:
                sent = sent_bytes(mode, sizes(name), gpus)
                cells.append(f"{number(sent / 1e9)} GB, {number(sent / link(gpus))} s")

            rows.append([name, mode, *cells])

    head = ["shape", "training", *(f"{gpus} GPUs, {gpus * accumulation(gpus)} rows" for gpus in GPUS[1:])]
    return table(head, rows)


def media_table() -> str:
    """What must be read for LoRA and for `predict`, where each row has a video of its own."""
    frame_mb = ASSUMED.frames * ASSUMED.side**2 * 3 / 1e6
    rows = []
    for name in SHAPES:
        for work, speeds in (
            ("LoRA", [rows_per_second("LoRA, DDP", name, gpus)[0] for gpus in GPUS]),
            ("`predict`", [gpus / measured(name).ground for gpus in GPUS]),
        ):
            cells = (f"{number(speed)} rows, {number(speed * ASSUMED.row_mb)} MB" for speed in speeds)
            rows.append([name, work, *cells, number(speeds[0] * frame_mb)])

    return table(["shape", "a second", *map(gpus_head, GPUS), "MB a GPU from `frame_cache_dir`"], rows)


def serving_table() -> str:
    """Requests of the measured length whose keys and values one GPU holds beside the weights."""
    rows = []
    for name in SHAPES:
        own, tokens = sizes(name), measured(name).tokens
        a_request = token_bytes(own) * tokens / GIB
        weights = own.total * ASSUMED.half / GIB
        room = {gib: max(0, math.floor((gib - weights) / a_request)) for gib in (24, 80, ASSUMED.gpu_gib)}
        rows.append([name, tokens, f"{weights:.1f}", f"{a_request:.2f}", *room.values()])

    head = [
        "shape",
        "tokens of a request",
        "GiB of weights",
        "GiB of keys and values",
        "fit into 24 GiB",
        "80",
        "139.8",
    ]
    return table(head, rows)


def report() -> str:
    """All tables, as the page has them."""
    parts = {
        "Sizes": sizes_table,
        "Memory: GiB on each GPU, one row at a time": memory_table,
        "Speed: rows a second": speed_table,
        "Network: what each GPU sends in an optimizer step": network_table,
        "Media: what is read in a second": media_table,
        "Serving: requests that fit": serving_table,
    }
    return "\n\n".join(f"### {title}\n\n{make()}" for title, make in parts.items())


def put_into(page: str, tables: str) -> str:
    """A page with the tables between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="a page to write them into")
    args = parser.parse_args()
    tables = report()
    print(tables)
    if args.page:
        args.page.write_text(put_into(args.page.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
