"""Virtual environments to try versions in, and files of exact versions: what lock.py and newest.py share."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "constraints" / "tested.txt"
OURS = "spacevllm_plugin"
# As `make test` runs it.
SUITE = ("-m", "pytest", "-n", "2", "--dist", "loadfile")


def plain(name: str) -> str:
    """A package's name as locks write it."""
    return name.lower().replace("_", "-").replace(".", "-")


class Environment:
    """A fresh virtual environment.

    Args:
        folder: Where; whatever is there is removed.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.folder = folder
        self.python = folder / "bin" / "python"

    def run(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        """`python ARGUMENTS`, in the root of the project, as in an activated environment."""
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run([self.python, *arguments], cwd=ROOT, env={**os.environ, "PATH": path}, **options)

    def pip(self, *arguments: str) -> None:
        """`pip install ARGUMENTS`; pip says what is wrong, and this ends."""
        if self.run("-m", "pip", "install", "--quiet", *arguments).returncode != 0:
            sys.exit("pip found no way to install this.")

    def versions(self) -> dict[str, str]:
        """Exact version of every package but pip and ours."""
        listed = self.run("-m", "pip", "list", "--format=json", capture_output=True, text=True, check=True).stdout
        versions = {plain(package["name"]): package["version"] for package in json.loads(listed)}
        return {name: versions[name] for name in sorted(versions) if name not in ("pip", plain(OURS))}


def read_lock() -> dict[str, str]:
    """The exact versions in constraints/tested.txt."""
    return dict(line.split("==") for line in LOCK.read_text().split("\n") if "==" in line)
