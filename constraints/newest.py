"""What is out there beyond the lock and beyond setup.py's upper bounds: does it run, and if not, which package is it?

`make newest` runs it. It ends with 0 where the newest versions pass the doctor and the tests.
"""

import re
import sys
from collections.abc import Callable
from importlib.metadata import distributions, requires

from environment import OURS, ROOT, SUITE, Environment, plain, read_lock
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from spacevllm_plugin.versions import TORCH_SET


def lifted() -> list[str]:
    """Our requirements, those of the tests too, without their upper bounds; those of LLaMA-Factory's own stay."""
    lines = []
    for requirement in map(Requirement, requires(OURS)):
        if requirement.marker is None or requirement.marker.evaluate({"extra": "dev"}):
            kept = [str(part) for part in requirement.specifier if part.operator in (">=", ">", "!=")]
            requirement.specifier, requirement.marker = SpecifierSet(",".join(kept)), None
            lines.append(str(requirement))

    return lines


def groups(moved: set[str], environment: Environment) -> list[set[str]]:
    """Packages that moved, those together that pin one another (torch and its CUDA libraries): they move as one."""
    site = next((environment.folder / "lib").glob("python*")) / "site-packages"
    found = [{name} for name in sorted(moved)]

    def join(names: set[str]) -> None:
        together = [group for group in found if group & names]
        if together:
            found[:] = [group for group in found if group not in together] + [set().union(*together)]

    join(moved & set(TORCH_SET))
    for distribution in distributions(path=[str(site)]):
        owner = plain(distribution.name)
        for requirement in map(Requirement, distribution.requires or []):
            # Pins, whatever extra they belong to: torch takes its libraries as extras of one package.
            if any(part.operator in ("==", "~=") for part in requirement.specifier):
                pair = {owner, plain(requirement.name)}
                if pair <= moved:
                    join(pair)

    # The likeliest first.
    return sorted(found, key=lambda group: (not group & set(TORCH_SET), sorted(group)))


def doctor(environment: Environment) -> str | None:
    """What the doctor says is broken."""
    result = environment.run("-m", "spacevllm_plugin.cli.main", "doctor", capture_output=True, text=True)
    return result.stderr.strip().splitlines()[-1] if result.returncode else None


def suite(environment: Environment, tests: tuple[str, ...] = ()) -> str | None:
    """The tests that fail, of all or of some."""
    result = environment.run(*SUITE, "-rfE", *tests, capture_output=True, text=True)
    if result.returncode == 0:
        return None

    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", result.stdout, re.MULTILINE)
    return " ".join(failed) or (result.stdout + result.stderr).strip().splitlines()[-1]


def culprit(
    environment: Environment, suspects: list[set[str]], check: Callable[[], str | None], new: dict, old: dict
) -> set[str]:
    """The first group with which a check begins to fail when the groups are moved one after the other (bisection)."""
    passing, failing = 0, len(suspects)  # how many groups are at their newest
    while failing - passing > 1:
        count = (passing + failing) // 2
        pins = [
            f"{name}=={(new if place < count else old).get(name, new[name])}"
            for place, group in enumerate(suspects)
            for name in group
        ]
        environment.pip("--no-deps", *pins)
        print(f"  with {count} of {len(suspects)} at their newest …", flush=True)
        passing, failing = (passing, count) if check() else (count, failing)

    return suspects[failing - 1]


def main() -> None:
    """Install, try, name."""
    environment = Environment(ROOT / "outputs" / "newest")
    environment.pip(*lifted())
    environment.pip("--no-deps", "-e", ".")
    new, old = environment.versions(), read_lock()
    moved = {name for name in new if name not in old or old[name] != new[name]}
    for name in sorted(moved):
        print(f"{name}: {old.get(name, 'new')} -> {new[name]}")

    check = lambda: doctor(environment)  # noqa: E731
    problem = check()
    if problem is None:
        problem = suite(environment)
        failed = tuple(part for part in (problem or "").split() if "::" in part)
        check = lambda: suite(environment, failed)  # noqa: E731

    if problem is None:
        print(
            "The newest versions pass. `make lock` takes those within setup.py's bounds; raise the bounds for the rest."
        )
        return

    suspects = groups(moved, environment)
    if not suspects:
        sys.exit(f"The versions of the lock are the newest, and fail: {problem}")

    found = culprit(environment, suspects, check, new, old)
    first, *others = sorted(found, key=lambda name: (*(name != one for one in TORCH_SET), name))
    moves = f" (with what moves along: {', '.join(others)})" if others else ""
    print(f"\n{first} {new[first]} breaks it, where {old.get(first, 'none')} was tested{moves}:")
    sys.exit(problem)


if __name__ == "__main__":
    main()
