"""Column types of the two tables that LLaMA-Factory writes: left to guess, Arrow takes the first rows' word for all."""

from typing import Any

from datasets import Features, Sequence, Value

from .converter import COLUMN
from .sentences import SHARED


TURNS = [{"role": Value("string"), "content": Value("string")}]

ALIGNED = Features(
    {
        "_prompt": TURNS,
        "_response": TURNS,
        "_system": Value("string"),
        "_tools": Value("string"),
        "_images": Sequence(Value("string")),
        "_videos": Sequence(Value("string")),
        "_audios": Sequence(Value("string")),
        COLUMN: Value("string"),
    }
)


def tokenised(aligned: Features) -> Features:
    """Columns of the tokenised table; the media keep the type that the mixture's other formats may have given them."""

    def media(name: str) -> Any:
        known = aligned[name]
        return Sequence(Value("string")) if known == Value("null") else known

    return Features(
        {
            "input_ids": Sequence(Value("int32")),
            "attention_mask": Sequence(Value("int8")),
            "labels": Sequence(Value("int64")),
            "images": media("_images"),
            "videos": media("_videos"),
            "audios": media("_audios"),
            "box_targets": Sequence(Value("float32")),
            "annotation": Value("string"),
            "error": Value("string"),
            "option": Value("string"),
            **SHARED,
        }
    )


class Typed:
    """A data set whose next `map` writes the given columns, whatever its first rows look like.

    Args:
        dataset: Of the datasets library.
        features: Types of the columns.
        options: Further arguments of that `map`, instead of the caller's.
    """

    def __init__(self, dataset: Any, features: Features, options: dict[str, Any]) -> None:
        self._dataset = dataset
        self._options = {"features": features, **options}

    def __iter__(self) -> Any:
        return iter(self._dataset)

    def map(self, *args: Any, **kwargs: Any) -> Any:
        """As `datasets.Dataset.map`."""
        return self._dataset.map(*args, **{**kwargs, **self._options})
