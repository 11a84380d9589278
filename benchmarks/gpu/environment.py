"""An environment of its own over the machine's Python: the carried wheels in front, the machine's torch behind them."""

import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[2]
TORCHRUN = "#!{python}\nfrom torch.distributed.run import main\n\nmain()\n"


def create(wheels: Path, folder: Path) -> Path:
    """Install wheels and this repository beside what the Python that runs this has; reaches no registry.

    Args:
        wheels: Folder of wheels; of each package one version.
        folder: The environment's folder; kept as it is if it was made of the same wheels.

    Returns:
        The environment's interpreter.

    Raises:
        FileNotFoundError: No wheels there.
        subprocess.CalledProcessError: pip refused one.
    """
    files = sorted(wheels.glob("*.whl"))
    if not files:
        raise FileNotFoundError(f"no wheels in {wheels}: `make gpu-wheels WHEELS={wheels}` where there is a registry")

    python, record = folder.resolve() / "bin" / "python", folder / "wheels.txt"
    names = "".join(f"{file.name}\n" for file in files)
    if record.is_file() and record.read_text() == names:
        return python

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
    return python


def _put_machine_behind(python: Path) -> None:
    """Let the environment see the machine's packages, behind its own.

    Not by `--system-site-packages`: where the machine's Python is a virtual environment itself, that shows the packages
    of the Python below it, without torch.
    """
    folder = subprocess.check_output([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
    machine = [path for path in sys.path if path.endswith("-packages")]
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in machine)
    Path(folder.decode().strip(), "machine.pth").write_text(lines)
