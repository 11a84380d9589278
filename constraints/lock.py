"""Write constraints/tested.txt anew: what pip takes within setup.py's ranges, once quickstart and tests passed with it.

`make lock` runs it; it takes about half an hour on two cores, and replaces the old lock only when all is green.
"""

import os
import platform
import sys

from environment import LOCK, ROOT, SUITE, Environment, read_lock


# flash-attn is not among them: it is built against a GPU's torch.
EXTRAS = ".[deepspeed,decord,torchcodec,liger,qlora,metrics,ray,s3,gcs]"
# Wants an older PyAV than the lock's, so an environment of its own.
APART = ".[lmms-eval]"


def main() -> None:
    """Resolve, try, replace."""
    environment = Environment(ROOT / "outputs" / "lock")
    environment.pip("-e", ".[dev]")
    versions = environment.versions()
    where = f"CPython {platform.python_version().rpartition('.')[0]}, {platform.system()} {platform.machine()}"
    lines = [f"# The environment that the suite last ran on, written by `make lock`: {where}."]
    lines += [f"{name}=={version}" for name, version in versions.items()]
    candidate = LOCK.with_suffix(".candidate")
    candidate.write_text("\n".join(lines) + "\n")

    resolve = ("-m", "pip", "install", "--quiet", "--dry-run")
    for what, arguments in (
        ("the doctor", ("-m", "spacevllm_plugin.cli.main", "doctor")),
        ("an extra", (*resolve, "-c", str(candidate), EXTRAS)),
        ("an extra", (*resolve, APART)),
        ("the quickstart", ("examples/quickstart/quickstart.py",)),
        ("a test", SUITE),
    ):
        if environment.run(*arguments).returncode != 0:
            sys.exit(f"{what} fails with these versions: they stay in {candidate}, and {LOCK.name} stays as it is.")

    old = read_lock()
    os.replace(candidate, LOCK)
    for name in sorted(old.keys() | versions.keys()):
        if old.get(name) != versions.get(name):
            print(f"{name}: {old.get(name, 'new')} -> {versions.get(name, 'gone')}")


if __name__ == "__main__":
    main()
