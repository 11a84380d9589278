"""When the tables that LLaMA-Factory keeps in the cache of the datasets library may be used again."""

import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from pyarrow import types

from ..data.media import media_digest


# What chooses rows (the data set's own fingerprint tells) or only says how fast and where to work.
UNREAD = (
    *(
        "dataset",
        "eval_dataset",
        "mix_strategy",
        "interleave_probs",
        "max_samples",
        "val_size",
        "eval_on_each_dataset",
    ),
    *("overwrite_cache", "preprocessing_batch_size", "preprocessing_num_workers", "data_shared_file_system"),
    *("tokenized_path", "eval_num_beams"),
)


def comes_first(data_args: Any, training_args: Any) -> bool:
    """Whether this process works while the others that see its cache wait (LLaMA-Factory's `main_process_first`)."""
    return (
        training_args.process_index if data_args.data_shared_file_system else training_args.local_process_index
    ) == 0


def converting(dataset: Any, dataset_attr: Any, data_args: Any, training_args: Any) -> dict[str, Any]:
    """Arguments of `datasets.Dataset.map` for the conversion of a data set.

    It looks for the media files, so every run does it anew, in its first process.
    """
    folders = (data_args.dataset_dir, data_args.media_dir)
    return {
        "new_fingerprint": _digest(dataset._fingerprint, vars(dataset_attr), folders, package_digest()),
        "load_from_cache_file": not comes_first(data_args, training_args),
    }


def tokenising(dataset: Any, data_args: Any, training_args: Any, parts: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `datasets.Dataset.map` for tokenising a converted data set.

    What was tokenised stays good as long as rows, media files, options, tokenizer and packages stay as they are.

    Args:
        dataset: With the columns `_images` and `_videos`.
        data_args: LLaMA-Factory's.
        training_args: LLaMA-Factory's.
        parts: Whatever else the tokens depend on; can be written as JSON.
    """
    read = {name: value for name, value in vars(data_args).items() if name not in UNREAD}
    versions = [version(package) for package in ("llamafactory", "transformers", "tokenizers", "av")]
    media = media_digest(distinct_paths(dataset.data, "_images"), distinct_paths(dataset.data, "_videos"))
    return {
        "new_fingerprint": _digest(dataset._fingerprint, read, parts, media, versions, package_digest()),
        "load_from_cache_file": not (data_args.overwrite_cache and comes_first(data_args, training_args)),
    }


def was_tokenised(dataset: Any, caching: dict[str, Any]) -> bool:
    """Whether the table that `tokenising` is about, or a process's part of it, lies in the cache and will be taken."""
    file = Path(dataset._get_cache_file_path(caching["new_fingerprint"]))
    return caching["load_from_cache_file"] and any(file.parent.glob(f"{file.stem}*{file.suffix}"))


def grouping(dataset: Any, *settings: Any) -> str:
    """Fingerprint of a tokenised data set whose rows are grouped."""
    return _digest(dataset._fingerprint, settings, package_digest())


def tokenizer_state(tokenizer: Any, processor: Any) -> list[Any]:
    """What tells a tokenizer and a processor from others."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # The latest call leaves them there.
    del state["truncation"], state["padding"]
    return [state, tokenizer.special_tokens_map, processor.to_json_string()]


@cache
def package_digest() -> str:
    """What tells this plugin's source from another version's, be it installed or edited in place."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode())
        digest.update(file.read_bytes())

    return digest.hexdigest()


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def distinct_paths(table: Any, column: str) -> list[str]:
    """The distinct paths of a column; pictures that lie in the table itself are told by its fingerprint.

    Args:
        table: Arrow's. Of a data set's own, rows that a selection has left out are among them.
        column: Of lists.
    """
    lists = table.column(column)
    if not (types.is_list(lists.type) and types.is_string(lists.type.value_type)):
        return []

    return pc.unique(pc.list_flatten(lists)).to_pylist()
