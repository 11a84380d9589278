"""Tiny checkpoints: a backbone's stock classes, random weights, and a tokenizer trained on the spot.

Each has what a checkpoint of the hub has (processor, chat template, generation config) in about a million parameters,
so a whole run can be tried without a download.
"""

import json
import math
import re
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Tokenizer

from ..data.prompts import INSTRUCTIONS, TIME_SENTENCE
from .registry import get


FRAME_SIZE = 48
PATCH_SIZE = 8
GRID_SIZE = FRAME_SIZE // PATCH_SIZE

CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = r"""
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for item in message.content -%}
            {%- if item.type == 'image' -%}
                {{- '@image@' -}}
            {%- elif item.type == 'video' -%}
                {{- '@video@' -}}
            {%- else -%}
                {{- item.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\n@thought@' -}}
{%- endif -%}
"""

# Most real embeddings are padded beyond the tokenizer; so are these.
VOCAB_MULTIPLE = 64
MIN_SPARE_IDS = 8

TEXT = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    # The usual 0.02 is for models many times as wide; a trial has learned from weights of this scale.
    "initializer_range": 0.05,
}
VISION = {"hidden_size": 64, "patch_size": PATCH_SIZE}
# The real ones' millions would leave a head of 32 too few frequencies that turn within a short prompt.
ROPE_THETA = 1e4

QK_NORM = 1.5
TIMES = [f"{tenths / 10:.1f}" for tenths in range(0, 100, 5)]  # seconds
# What every prompt repeats. A model this small learns to look things up in 200 tokens much sooner than in 300.
PHRASES = [
    "You are a helpful assistant.",
    *dict.fromkeys(part for phrasings in INSTRUCTIONS.values() for part in phrasings[0].split("{query}")),
]
# How a backbone is told the frames' times: a stamp before each frame, or one sentence about them all.
STAMPS = [f"<{time} seconds>" for time in TIMES]
SENTENCE = re.split(r"{\w+}", TIME_SENTENCE)
SENTENCE_TIMES = [f"{quarters / 4:.2f}s" for quarters in range(40)]

HALF = [0.5, 0.5, 0.5]  # mean and deviation of pixels


def default_corpus() -> list[str]:
    """Sentences like those of the prompts, enough that their words become single tokens."""
    colours = "red green blue yellow orange purple cyan magenta white black pink gray brown".split()
    nouns = "circle square triangle diamond star shape object person man woman child boy girl dog car".split()
    actions = ["moves left", "moves right", "moves up", "moves down", "grows", "shrinks", "appears", "disappears"]
    actions += ["turns", "stands still", "walks to the door", "sits down", "stands up and holds a cup", "runs away"]

    asked = []
    for i, (colour, noun) in enumerate(product(colours, nouns)):
        look = f"the {colour} {noun}"
        query = f"{look} that {actions[i % len(actions)]}"
        asked += [query, f'When and where does this happen: "{query}"? Answer with the time.']
        asked += [f'When does this happen: "{query}"? Answer with the time.', f'Where is this: "{look}"? Here it is.']
        asked += [f"How many {noun}s appear? What does the {noun} in {colour} do?"]

    spans = [f"From {start} to {end} seconds." for start, end in product(TIMES, TIMES)]
    preambles = [
        TIME_SENTENCE.format(duration=f"{time}0", count=2 * i, times=f"0.00s,0.50s,1.00s,{time}0s")
        for i, time in enumerate(TIMES)
    ]
    turns = ["system\nYou are a helpful assistant.", "user\nDescribe the image or the video.", "assistant\n"]

    return asked + spans + STAMPS + preambles + turns * 2  # twice, since a pair that is seen once is not merged


def train_tokenizer(
    corpus: Iterable[str],
    special_tokens: Iterable[str],
    times: Iterable[str],
    phrases: Iterable[str],
    tokenizer_class: type[PreTrainedTokenizerFast] = Qwen2Tokenizer,
    **named_tokens: str,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE that splits text as Qwen's does, with the special tokens after the text's as there.

    Args:
        corpus: The text.
        special_tokens: Tokens that are never split.
        times: Numbers that become one token each, where they stand alone.
        phrases: Pieces of prompts that become one token each.
        tokenizer_class: The backbone's own.
        **named_tokens: More special tokens, by the tokenizer's attributes in which a processor looks for them.
    """
    blank = tokenizer_class(unk_token=None, eos_token=None, pad_token=None)
    trained = blank.train_new_from_iterator(corpus, vocab_size=1000, min_frequency=2, show_progress=False)
    model = json.loads(trained.backend_tokenizer.to_str())["model"]

    tokenizer = tokenizer_class(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(special_tokens),
        model_max_length=TEXT["max_position_embeddings"],
        **({"model_specific_special_tokens": named_tokens} if named_tokens else {}),
    )
    # Qwen writes a number digit by digit, which takes long to learn from nothing; a time is one token here.
    tokenizer.add_tokens([AddedToken(time, single_word=True, normalized=False) for time in times])
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in phrases])
    return tokenizer


def chat_template(marks: dict[str, str], empty_thought: str = "") -> str:
    """ChatML, with one mark for each image and each video of a message, and what stands before an answer."""
    values = {**marks, "thought": empty_thought.replace("\n", r"\n")}
    return re.sub("@(\\w+)@", lambda match: values[match.group(1)], CHAT_TEMPLATE)


def text_part(tokenizer: PreTrainedTokenizerFast, **more) -> dict:
    """The language model's part of a config."""
    vocab_size = VOCAB_MULTIPLE * math.ceil((len(tokenizer) + MIN_SPARE_IDS) / VOCAB_MULTIPLE)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    return {**TEXT, **ids, "vocab_size": vocab_size, **more}


def sharpen_attention(model: torch.nn.Module, weight: float = QK_NORM) -> None:
    """For backbones that normalise queries and keys: with heads of 32 and fresh norms no attention logit could pass 5.7.

    A trained checkpoint's norms have long grown beyond one; a short run would spend its steps on that alone.

    Args:
        model: Has `q_norm` and `k_norm` in its attention.
        weight: What makes such a norm scale by `QK_NORM`.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            parameter.data.fill_(weight)


def make_tiny(backbone: str, out: Path, seed: int = 0, corpus: Iterable[str] | None = None, **variant: int) -> None:
    """Write a tiny base checkpoint that loads like one of the hub.

    Args:
        backbone: Its name.
        out: The checkpoint's folder; made if need be.
        seed: Seed of the random weights; the caller's random state stays as it is.
        corpus: The text that the tokenizer is trained on; by default sentences like those of the prompts.
        **variant: What the backbone's builder takes beside the corpus.

    Raises:
        UnknownBackbone: There is no such backbone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = get(backbone).build_tiny(default_corpus() if corpus is None else corpus, **variant)

    tokenizer = processor.tokenizer
    tokenizer.chat_template = processor.chat_template
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id], pad_token_id=tokenizer.pad_token_id
    )
    # Under their own names, as ours are: the older ones that transformers brings back are not read by each of its releases.
    model.save_pretrained(out, save_original_format=False)
    processor.save_pretrained(out)
