"""Memory of a dataloader worker while it reads one long Full HD video: frames resized as they are decoded, or all at the end.

`python benchmarks/worker_memory.py [--frames 128]` makes a 1080p H.264 clip and reads uniform frames of it with each
backbone's prompter, up to the tensors that the model gets, in a process of its own for each figure: the most memory that
was resident beyond what was after the imports and the loading of the processor. The other side keeps what the reader
decodes and resizes it when all is there; the tensors of both sides are the same. One reading with a tiny checkpoint's
processor at real sizes: `video_max_pixels` counts, not the model.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from reader import encode, repeat

from spacevllm_plugin.backbones import registry
from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.data.plan import Preprocessing
from spacevllm_plugin.data.video import read
from spacevllm_plugin.modeling.configuration import GroundingOptions


SECONDS = 60


def status(name: str) -> int:
    """A figure of this process in bytes: `VmRSS` now, `VmHWM` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def worker(backbone: str, model: str, clip: str, frames: int, pixels: int, side: str) -> None:
    """Read the clip and print: peak and kept bytes, and a digest of the tensors."""
    from transformers import AutoProcessor
    from transformers.image_utils import SizeDict

    options = Preprocessing(video_maxlen=frames, video_max_pixels=pixels)
    prompter = registry.get(backbone).prompter_class(AutoProcessor.from_pretrained(model), options, GroundingOptions())
    if backbone == "llava_onevision":
        prompter.processor.video_processor.size = SizeDict(height=384, width=384)  # the real SigLIP's

    _, (plan,) = prompter.plan([], [clip])
    grid = prompter.grid(plan)
    before = status("VmRSS")
    if side == "all":
        pictures = torch.stack([prompter.resize(plan, picture) for picture in read(plan.ref, plan.shown)])
    else:
        pictures = prompter._pictures(plan)

    read_peak = status("VmHWM") - before
    inputs = prompter.tensors([plan], [pictures], [grid])
    (values,) = (value for name, value in inputs.items() if name.startswith("pixel_values"))
    peak = status("VmHWM") - before
    digest = hashlib.sha256(values.numpy()).hexdigest()[:12]
    print(read_peak, peak, pictures.nbytes + values.nbytes, digest)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=128, help="video_maxlen (default: %(default)s)")
    parser.add_argument("--pixels", type=int, default=256 * 256, help="video_max_pixels (default: %(default)s)")
    parser.add_argument("--worker", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        backbone, model, clip, frames, pixels, side = args.worker
        worker(backbone, model, clip, int(frames), int(pixels), side)
        return

    print(f"{args.frames} frames of 1080p, MB beyond the imports: reading, and the model's tensors too")
    with tempfile.TemporaryDirectory() as folder:
        segment, clip = Path(folder, "segment.mp4"), Path(folder, "clip.mp4")
        encode(segment, 1080, 48)
        repeat(segment, clip, SECONDS)
        for backbone in registry.names():
            make_tiny(backbone, Path(folder, backbone))
            digests = set()
            for side, name in (("all", "all frames, then resized"), ("each", "resized as decoded")):
                command = [backbone, str(Path(folder, backbone)), str(clip), str(args.frames), str(args.pixels), side]
                done = subprocess.run(
                    [sys.executable, __file__, "--worker", *command], capture_output=True, text=True, check=True
                )
                *sizes, digest = done.stdout.split()[-4:]
                reading, peak, kept = (int(size) / 1e6 for size in sizes)
                digests.add(digest)
                print(f"{backbone:16} {name:26}{reading:8.0f}{peak:8.0f}   to keep {kept:.0f}", flush=True)

            print(f"{'':16} the tensors are {'the same' if len(digests) == 1 else 'NOT the same'}")


if __name__ == "__main__":
    main()
