"""An environment of its own over the machine's Python: the carried wheels in front, the machine's torch behind them."""

import argparse
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[2]
TORCHRUN = "#!{python}\nfrom torch.distributed.run import main\n\nmain()\n"


def interpreter(folder: Path) -> Path:
    """Where the environment's interpreter is, or will be."""
    return folder.resolve() / "bin" / "python"


def create(wheels: Path, folder: Path) -> None:
    """Install wheels and this repository beside what the Python that runs this has; reaches no registry.

    Args:
        wheels: Folder of wheels; of each package one version.
        folder: The environment's folder; kept as it is if it was made of the same wheels.

    Raises:
        FileNotFoundError: No wheels there.
        subprocess.CalledProcessError: pip refused one.
    """
    files = sorted(wheels.glob("*.whl"))
    if not files:
        raise FileNotFoundError(f"no wheels in {wheels}: `make gpu-wheels WHEELS={wheels}` where there is a registry")

    python, record = interpreter(folder), folder / "wheels.txt"
    names = "".join(f"{file.name}\n" for file in files)
    if record.is_file() and record.read_text() == names:
        print(f"{folder} is made of these wheels already")
        return

    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True)
    _put_machine_behind(python)
    # The machine's pip, running in the environment. What the machine has of these packages stays, but is hidden.
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--ignore-installed", *map(str, files)], check=True)
    subprocess.run([*pip, "--no-build-isolation", "--editable", str(ROOT)], check=True)
    # The machine's own `torchrun` would start the machine's Python.
    torchrun = python.with_name("torchrun")
    torchrun.write_text(TORCHRUN.format(python=python))
    torchrun.chmod(0o755)
    record.write_text(names)
    print(f"{len(files)} wheels and this repository installed in {folder}")


def _put_machine_behind(python: Path) -> None:
    """Let the environment see the machine's packages, behind its own.

    Not by `--system-site-packages`: where the machine's Python is a virtual environment itself, that shows the packages
    of the Python below it, without torch.
    """
    folder = subprocess.check_output([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
    machine = [path for path in sys.path if path.endswith("-packages")]
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in machine)
    Path(folder.decode().strip(), "machine.pth").write_text(lines)


def main() -> None:
    """Make the environment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    create(args.wheels, args.folder)


if __name__ == "__main__":
    main()
