"""The house: which part may import which, nothing in a circle, LLaMA-Factory in one folder alone."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "spacevllm_plugin"

# From the ground up: a part may import what stands above it in this list, and what stands in its own line not at all.
# docs/architecture.md shows the same.
ORDER = [
    ("versions",),
    ("backbones.spec", "trials"),
    # What backbones there are is a fact that everybody may ask for: it loads nothing. The hooks name what they load.
    ("backbones.registry", "bootstrap"),
    ("",),  # the package itself: its version, and `register`
    ("data",),
    ("check", "converters", "evaluation", "modeling"),
    ("backbones", "unistg"),
    ("inference",),
    ("distributed",),
    ("exporters", "scoreboard", "serving"),
    ("demo",),
    ("integration",),
    ("lmms_eval",),
    ("cli",),
]


def name_of(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file):
    """Modules that a file imports, anywhere in it; of what is imported from a package, the module if it is one."""
    package = name_of(file).split(".") if file.name == "__init__.py" else name_of(file).split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" if f"{base}.{alias.name}" in files() else base for alias in node.names)


@cache
def files():
    return {name_of(file): file for file in PACKAGE.rglob("*.py")}


def part_of(module):
    """The part of the house that a module is in: the longest name of `ORDER` that fits; a room's `spec` is a fact, too."""
    inside = module.removeprefix("spacevllm_plugin").removeprefix(".")
    if inside.startswith("backbones.") and inside.endswith(".spec"):
        return "backbones.spec"

    fitting = [part for line in ORDER for part in line if part == inside or (part and inside.startswith(f"{part}."))]
    return max(fitting, key=len)


def ours(file):
    return [module for module in imported(file) if module in files() and module != name_of(file)]


def test_no_arrow_runs_up():
    floor = {part: number for number, line in enumerate(ORDER) for part in line}
    wrong = [
        f"{name} imports {module}"
        for name, file in files().items()
        for module in ours(file)
        if part_of(module) != part_of(name) and floor[part_of(module)] >= floor[part_of(name)]
    ]
    assert not wrong


def test_every_part_is_there():
    assert {part_of(name) for name in files()} == {part for line in ORDER for part in line}


def test_nothing_imports_in_a_circle():
    try:
        list(TopologicalSorter({name: ours(file) for name, file in files().items()}).static_order())
    except CycleError as err:
        raise AssertionError(" -> ".join(reversed(err.args[1]))) from None


def test_llamafactory_is_imported_in_one_folder_alone():
    importing = {
        name for name, file in files().items() if any(m.partition(".")[0] == "llamafactory" for m in imported(file))
    }
    assert importing and {part_of(name) for name in importing} == {"integration"}
