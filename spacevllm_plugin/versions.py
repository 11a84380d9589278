"""Which versions are installed, promised and tested, read from installed metadata: setup.py is where they are written."""

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement


OURS = "spacevllm_plugin"
# Built for each other; whoever changes one changes all.
TORCH_SET = ("torch", "torchvision", "torchaudio")


def installed(package: str) -> str | None:
    """Version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _requirements() -> list[Requirement]:
    try:
        return [Requirement(line) for line in requires(OURS) or []]
    except PackageNotFoundError:  # on the path without being installed
        return []


def promised(package: str) -> Requirement | None:
    """The range that setup.py gives a package, as a dependency or for an extra; None for one that it does not name."""
    found = [
        r for r in _requirements() if r.name == package and not _of_extra(r, "tested") and not _of_extra(r, "dev")
    ]
    return found[0] if found else None


def tested(package: str) -> str | None:
    """The version that the suite last ran on; None for a package that the extra `tested` does not name."""
    found = [r for r in _requirements() if r.name == package and _of_extra(r, "tested")]
    return str(found[0].specifier).removeprefix("==") if found else None


def _of_extra(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def mend(package: str) -> str:
    """The command that brings a package to what was tested, or else into its range."""
    names = TORCH_SET if package in TORCH_SET else (package,)
    away = [name for name in names if not _is_tested(name)]
    wanted = [f"{name}=={tested(name)}" if tested(name) else _range(name) for name in away or names]
    again = "" if away else "--force-reinstall --no-deps "
    return f"pip install {again}" + " ".join(f'"{name}"' for name in wanted)


def _is_tested(package: str) -> bool:
    # A local part names the build (`2.14.1+cpu`), not another release.
    return tested(package) == (installed(package) or "").partition("+")[0]


def _range(package: str) -> str:
    requirement = promised(package)
    return package if requirement is None else f"{package}{requirement.specifier}"
