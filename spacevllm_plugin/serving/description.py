"""What an export for engines says of itself, and where its parts lie."""

from pathlib import Path

from pydantic import BaseModel, ValidationError

from .vocabulary import QueryVocabulary


FILE = "spacevllm.json"
# The vision tower and the heads: a SpaceVLLM checkpoint whose language model has no layer.
SIDECAR = "sidecar"
# What the whole prompt is written with: the text as it is, and a mark for each picture.
CHAT_TEMPLATE = "engine_template.jinja"


class NoExport(ValueError):
    """A folder is no export for engines; the message is one line."""


class EngineExport(BaseModel):
    """What serving has to know of an export.

    Attributes:
        backbone: Name of the backbone.
        queries: Ids of the queries.
        picture_token: Stands for one visual token, of frames and images alike.
        suppressed: Ids that are never an answer.
        num_layers: Layers of the language model.
        presence_layer: Layer whose input the presence head reads; None without that head.
        merge_size: Patches that a visual token merges along each side, for backbones whose engines ask for a grid of patches
            with each picture; None for the others.
    """

    backbone: str
    queries: QueryVocabulary
    picture_token: int
    suppressed: list[int]
    num_layers: int
    presence_layer: int | None
    merge_size: int | None

    def write(self, folder: Path) -> None:
        """Write it into an export's folder."""
        (folder / FILE).write_text(self.model_dump_json(indent=2), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "EngineExport":
        """Read an export's.

        Raises:
            NoExport: The folder holds none, or of another release.
        """
        try:
            return cls.model_validate_json((folder / FILE).read_text(encoding="utf-8"))
        except OSError:
            hint = "write one with `spacevllm-cli export --for-engine`"
            raise NoExport(f"{folder} is no export for engines: it holds no {FILE}; {hint}") from None
        except ValidationError as err:
            place = ".".join(map(str, err.errors()[0]["loc"]))
            raise NoExport(f"{folder}/{FILE}: {place}: {err.errors()[0]['msg']}") from None
