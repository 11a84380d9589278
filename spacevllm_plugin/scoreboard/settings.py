"""What a run was started with: kept beside its predictions, so that no other run goes on with them."""

import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..data.output import replaced
from ..versions import installed


PACKAGES = ("torch", "transformers", "llamafactory", "spacevllm_plugin")


class SettingsError(Exception):
    """A folder that holds a run of other settings; one line."""


def versions() -> dict[str, str | None]:
    """Versions that can change a prediction; None for a package that is on the path without being installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str | None:
    if name == "spacevllm_plugin":
        from .. import __version__

        return __version__

    return installed(name)


@dataclass
class Settings:
    """Everything the predictions depend on but the data.

    Attributes:
        model: As given.
        adapter: As given.
        arguments: Further LLaMA-Factory arguments.
        max_new_tokens: Longest answer, in tokens.
        batch_size: Rows per generation.
        limit: How many rows of the benchmark are taken; None for all.
        versions: See `versions`.
        sampling: Frames, pixels and options of the loaded model; None until it is loaded.
    """

    model: str
    adapter: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 64
    batch_size: int = 8
    limit: int | None = None
    versions: dict[str, str | None] = field(default_factory=versions)
    sampling: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the report."""
        return asdict(self)

    def save(self, path: Path) -> None:
        """Write them."""
        with replaced(path) as file:
            file.write(json.dumps(self.as_dict(), indent=2, ensure_ascii=False).encode() + b"\n")

    def take_up(self, path: Path) -> "Settings":
        """The settings of the run that `path` belongs to: these where there is none yet.

        Raises:
            SettingsError: It was started with others.
        """
        if not path.exists():
            return self

        old = Settings(**json.loads(path.read_text(encoding="utf-8")))
        for name, value in self.as_dict().items():
            if name not in ("sampling", "versions") and getattr(old, name) != value:
                raise SettingsError(
                    f"{path.parent} holds a run with {name} {_shown(getattr(old, name))}, not {_shown(value)}: "
                    "choose another --out"
                )

        return old

    def check_versions(self) -> None:
        """Refuse to predict further rows with other versions than the first ones.

        Raises:
            SettingsError: Versions have changed since the run was started.
        """
        now = versions()
        changed = [
            f"{name} {self.versions.get(name)}, now {now[name]}"
            for name in now
            if self.versions.get(name) != now[name]
        ]
        if changed:
            raise SettingsError(f"the run was started with {'; '.join(changed)}: choose another --out")


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
