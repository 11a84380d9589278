"""`sentences_per_video`: rows about one video, or image, become one row, and what the collator tells the model of it."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Features, Value
from datasets import Sequence as Column

from ..backbones import registry
from ..modeling.layout import Layout
from .options import RunOptions


IGNORED = -100  # label of a token that teaches nothing
# Columns of a tokenised row: what decides which rows can be one, …
SHARED = {"shared_key": Value("string"), "shared_length": Value("int32"), "caption_length": Value("int32")}
# … and of a grouped one: tokens of each sentence with its answer, and of its caption, at its start. Empty for a single one.
GROUPED = {"sentence_lengths": Column(Value("int32")), "caption_lengths": Column(Value("int32"))}


def check_sentences(template: Any, model_args: Any, data_args: Any, processor: Any) -> None:
    """Refuse what several sentences a video do not go with, in one line.

    Raises:
        ValueError: The backbone or an option keeps the sentences from sharing their video.
    """
    options = RunOptions.on(processor)
    if options.training.sentences_per_video == 1:
        return

    spec = registry.get(template.mm_plugin.backbone)
    reason = None
    if spec.model_class.one_sentence:
        reason = f"{spec.title} reads one sentence in a sequence: {spec.model_class.one_sentence}"
    elif options.grounding.instruction_first:
        reason = "with `instruction_first: true` a video's states depend on the sentence"
    elif data_args.train_on_prompt:
        reason = "with `train_on_prompt: true` each row teaches the same prompt once more"
    elif model_args.flash_attn in ("fa2", "fa3"):
        reason = "flash attention takes no masks but causal ones: set `flash_attn: sdpa`"

    if reason:
        raise ValueError(f"`sentences_per_video` must be 1 here: {reason}.")


def shared_part(prompter: Any, row: dict[str, list], images: list, videos: list, sources: list) -> dict[str, Any]:
    """What decides which other rows a row can be one with: the `SHARED` columns.

    Args:
        prompter: The backbone's.
        row: With `input_ids` and `labels`.
        images: The plans of its images.
        videos: The plans of its videos.
        sources: Its media as the data set names them, with their clips.
    """
    found = prompter.shared_part(row["input_ids"], images, videos) if sources else None
    named = all(isinstance(source, str) for source in sources)
    if found is None or not named:
        return {}

    length, caption = found
    # The last token that all share tells what comes next, too.
    if any(label != IGNORED for label in row["labels"][: length + 1]):
        return {}

    digest = hashlib.sha256(json.dumps([sources, row["input_ids"][:length]]).encode(errors="surrogateescape"))
    return {"shared_key": digest.hexdigest(), "shared_length": length, "caption_length": caption}


def group_rows(dataset: Any, most: int, data_args: Any, fingerprint: str, logger: Any) -> Any:
    """Make rows about one video one row.

    Args:
        dataset: A tokenised one with the `SHARED` columns, of the datasets library.
        most: Most sentences in a row; with 1 the rows stay as they are.
        data_args: LLaMA-Factory's. A row that would be longer than `cutoff_len` has fewer sentences.
        fingerprint: Of the result.
        logger: LLaMA-Factory's.

    Returns:
        The data set without the `SHARED` and, if `most` is more than 1, with the `GROUPED` columns. A group stands where its
        first row stood.
    """
    if most == 1:
        return dataset.remove_columns(list(SHARED))

    groups = find_groups(_lengths(dataset), most, data_args.cutoff_len)
    kept = [name for name in dataset.column_names if name not in SHARED]
    features = Features({**{name: dataset.features[name] for name in kept}, **GROUPED})

    def merge(_: dict[str, Any], place: int) -> dict[str, Any]:
        return merge_rows([dataset[number] for number in groups[place]])

    merged = dataset.select([group[0] for group in groups]).map(
        *(merge,),
        with_indices=True,
        remove_columns=list(SHARED),
        features=features,
        new_fingerprint=fingerprint,
        num_proc=data_args.preprocessing_num_workers,
        desc="Grouping rows about one video",
    )
    says = f"sentences_per_video: {most}: {len(dataset)} rows make {len(groups)} sequences."
    if len(groups) == len(dataset) > 0:
        logger.warning_rank0(f"{says} No two of them are about one video.")
    else:
        logger.info_rank0(says)

    return merged


def _lengths(dataset: Any) -> Iterable[tuple[str | None, int, int]]:
    """Each row's key, length, and length of what it shares."""
    table = dataset.select_columns(["shared_key", "shared_length", "attention_mask"]).with_format("arrow")
    for batch in table.iter(batch_size=1000):
        lengths = pc.list_value_length(batch["attention_mask"]).to_pylist()
        yield from zip(batch["shared_key"].to_pylist(), lengths, batch["shared_length"].to_pylist())


def find_groups(rows: Iterable[tuple[str | None, int, int]], most: int, cutoff_len: int) -> list[list[int]]:
    """Which rows become one, in order of the first of each.

    Args:
        rows: Key (None for a row that stays alone), tokens, and tokens that it shares with rows of the same key.
        most: Most rows in a group.
        cutoff_len: Most tokens of a group.
    """
    groups: list[list[int]] = []
    open_groups: dict[str, tuple[list[int], int]] = {}
    for number, (key, length, shared) in enumerate(rows):
        group, tokens = open_groups.get(key, ([], cutoff_len))
        together = tokens + length - (shared or 0)
        if key is None or len(group) == most or together > cutoff_len:
            group, together = [], length
            groups.append(group)

        group.append(number)
        if key is not None:
            open_groups[key] = group, together

    return groups


def merge_rows(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of several that share their beginning, see `modeling.sentences`; a single one stays as it is."""
    first, several = rows[0], len(rows) > 1
    shared = first["shared_length"] if several else None
    merged = {name: value for name, value in first.items() if name not in SHARED}
    for row in rows[1:]:
        for name in ("input_ids", "labels", "attention_mask"):
            merged[name] = merged[name] + row[name][shared:]

        merged["box_targets"] = merged["box_targets"] + row["box_targets"]

    merged["annotation"] = None if several else first["annotation"]
    merged["sentence_lengths"] = [len(row["input_ids"]) - shared for row in rows] if several else []
    merged["caption_lengths"] = [row["caption_length"] for row in rows] if several else []
    return merged


def sentence_inputs(
    is_query: torch.Tensor, staq_layout: torch.Tensor, begins: list[int], sentences: list[list[tuple[int, int]]]
) -> dict[str, torch.Tensor]:
    """What the model is told of a batch some of whose rows have several sentences.

    Args:
        is_query: (batch, sequence) bool.
        staq_layout: (total_queries, 8).
        begins: Where each row's padding ends, and its first sentence begins.
        sentences: For each row the lengths of its sentences and of their captions; empty where it has one sentence.

    Returns:
        `sentence_ids` (batch, sequence) and `box_lines` (boxes, 4).
    """
    ids, lines, query = torch.zeros_like(is_query, dtype=torch.long), [], 0
    layout = Layout.unpack(staq_layout)
    for row, (begin, parts) in enumerate(zip(begins, sentences)):
        positions = is_query[row].nonzero()[:, 0]
        numbers = torch.arange(query, query + len(positions))
        query += len(positions)
        if not parts:
            offsets, lengths = layout.caption_offset[numbers], layout.caption_length[numbers]
            lines.append(torch.stack([numbers, torch.zeros_like(numbers), offsets, lengths], dim=-1))

        for sentence, (length, caption) in enumerate(parts, start=1):
            ids[row, begin : begin + length] = sentence
            same = torch.full_like(numbers, sentence), begin - positions, torch.full_like(numbers, caption)
            lines.append(torch.stack([numbers, *same], dim=-1))
            begin += length

    return {"sentence_ids": ids, "box_lines": torch.cat(lines)}
