"""What the figures were measured on: versions, the GPU, and whether the plugin is in working order."""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from shutil import which

import torch

from spacevllm_plugin.cli.doctor import PACKAGES
from spacevllm_plugin.cli.main import main as spacevllm_cli
from spacevllm_plugin.versions import installed


def driver() -> str | None:
    """The GPU driver's version, where its tool is there to ask."""
    if which("nvidia-smi") is None:
        return None

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip() or None


def main() -> None:
    """Write the facts and run `spacevllm-cli doctor`, whose exit code is this one's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    args = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    gpu = torch.cuda.get_device_properties(0) if on_gpu else None
    facts = {
        "gpu": gpu.name if gpu else "none (CPU)",
        "gpu_memory_gib": round(gpu.total_memory / 2**30, 1) if gpu else None,
        "driver": driver() if gpu else None,
        "cuda": torch.version.cuda if gpu else None,
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := installed(name)) is not None},
    }
    args.out.write_text(json.dumps(facts, indent=2))
    if not on_gpu and os.environ.get("GPU_CHECK_DRY") != "1":
        sys.exit("torch sees no CUDA device here; --dry takes the same path on a CPU")

    sys.exit(spacevllm_cli(["doctor"]))


if __name__ == "__main__":
    main()
