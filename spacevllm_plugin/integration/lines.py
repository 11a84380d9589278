"""JSONL files as tables of lines: parsed by Arrow, the types of the first rows would have to fit all others."""

from collections.abc import Iterator
from itertools import islice

import pyarrow
from datasets import ArrowBasedBuilder, Dataset, DatasetInfo, Features, SplitGenerator, Value, Version

from ..data.jsonl import filled_lines
from ..data.storage import local_copy


FILE, NUMBER, TEXT = "_file", "_number", "_text"
LINE = Features({FILE: Value("string"), NUMBER: Value("int64"), TEXT: Value("binary")})
LINES_AT_ONCE = 256  # Arrow's columns end at 2 GB a batch, and a row may have megabytes of boxes


class Lines(ArrowBasedBuilder):
    """Every line that is not blank, with its file and its 1-based number."""

    VERSION = Version("1.1.0")

    def _info(self) -> DatasetInfo:
        return DatasetInfo(features=LINE)

    def _split_generators(self, dl_manager: object) -> list[SplitGenerator]:
        return [SplitGenerator(name, {"files": list(files)}) for name, files in self.config.data_files.items()]

    def _generate_tables(self, files: list[str]) -> Iterator[tuple[str, pyarrow.Table]]:
        for file in files:
            # Bytes: a line that is not UTF-8 is a bad row, not the end of all.
            with local_copy(file) as copy, open(copy, "rb") as lines:
                filled = filled_lines(lines)
                while batch := list(islice(filled, LINES_AT_ONCE)):
                    numbers, _, texts = zip(*batch)
                    columns = ([file] * len(batch), numbers, texts)
                    yield f"{file}:{numbers[0]}", pyarrow.table(list(columns), schema=LINE.arrow_schema)


def load_lines(files: list[str], split: str, cache_dir: str | None, num_proc: int | None) -> Dataset:
    """JSONL files, of this machine or remote, as one table, cached as `datasets.load_dataset` would."""
    builder = Lines(cache_dir=cache_dir, dataset_name="spacevllm", data_files=files)
    builder.download_and_prepare(num_proc=num_proc if len(files) > 1 else None)
    return builder.as_dataset(split=split)
