"""The backbones there are: the rooms beside this file, and those that other packages bring.

Another package adds one by an entry point of the group `spacevllm.backbones`, whose name is the backbone's and whose
object is its `BackboneSpec`. Nothing heavy is imported here.
"""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from .spec import PREFIX, BackboneSpec


GROUP = "spacevllm.backbones"


class UnknownBackbone(ValueError):
    """There is no such backbone, or it cannot be used; the message is one line."""


def _rooms() -> list[EntryPoint]:
    found = sorted(file.parent.name for file in Path(__file__).parent.glob("*/spec.py"))
    return [EntryPoint(name, f"{__package__}.{name}.spec:SPEC", GROUP) for name in found]


def _guests() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda place: place.name)


@cache
def _places() -> dict[str, EntryPoint]:
    # What a checkpoint's model type means must not depend on what else is installed: our names stay ours.
    return {place.name: place for place in [*_guests(), *_rooms()]}


def names() -> list[str]:
    """Names of all backbones; not one of them is imported for it."""
    return sorted(_places())


@cache
def get(name: str) -> BackboneSpec:
    """The backbone of a name.

    Raises:
        UnknownBackbone: There is none, or its room is not as it must be.
    """
    if name not in _places():
        raise UnknownBackbone(f"no backbone {name!r}; there are: {', '.join(names())}")

    place = _places()[name]
    try:
        spec = place.load()
    except Exception as err:  # somebody else's package may fail in any way
        raise UnknownBackbone(f"backbone {name}: {place.value} does not load ({type(err).__name__}: {err})") from err

    if not isinstance(spec, BackboneSpec) or spec.name != name:
        raise UnknownBackbone(f"backbone {name}: {place.value} is not a BackboneSpec of this name")

    return spec


@cache
def _survey() -> tuple[tuple[BackboneSpec, ...], tuple[str, ...]]:
    templates: dict[str, BackboneSpec] = {}
    ours = {place.name for place in _rooms()}
    broken = [f"backbone {guest.name}: {guest.value} has a name of ours" for guest in _guests() if guest.name in ours]
    for name in names():
        try:
            spec = get(name)
        except UnknownBackbone as err:
            broken.append(str(err))
            continue

        other = templates.setdefault(spec.template, spec)
        if other is not spec:
            broken.append(f"backbone {name}: its template {spec.template} is that of {other.name}")

    return tuple(templates.values()), tuple(broken)


def specs() -> tuple[BackboneSpec, ...]:
    """All backbones, also those that cannot be used with the transformers that is installed."""
    return _survey()[0]


def broken() -> tuple[str, ...]:
    """What keeps backbones of other packages from being among `specs`, a line each."""
    return _survey()[1]


def usable() -> tuple[BackboneSpec, ...]:
    """The backbones whose classes the installed transformers has."""
    return tuple(spec for spec in specs() if spec.find_problem() is None)


def of_template(template: str | None) -> BackboneSpec | None:
    """The backbone that a template chooses; None for a template that is none of ours."""
    return next((spec for spec in specs() if spec.template == template), None)


def of_model_type(model_type: str) -> BackboneSpec | None:
    """The backbone of a checkpoint, plain or SpaceVLLM's, by its model type; None if it is none of ours."""
    name = model_type.removeprefix(PREFIX)
    return get(name) if name in _places() else None
