"""SpaceVLLM and its plain backbone: transformers' own class over the very same modules, the same frames and text.

The plain side's prompt has no queries. It knows the language loss alone, and writes text alone.
"""

from typing import Any

import torch
import transformers

from gpu.engines import device
from spacevllm_plugin.data.schema import AnnotationRow
from spacevllm_plugin.data.targets import query_targets
from spacevllm_plugin.inference.engine import Engine
from spacevllm_plugin.inference.grounding import GroundingItem, ground_batch
from spacevllm_plugin.modeling.configuration import STAQ_TOKEN


STOCK = {
    "qwen3_vl": transformers.Qwen3VLForConditionalGeneration,
    "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration,
    "llava_onevision": transformers.LlavaOnevisionForConditionalGeneration,
}
NEW_TOKENS = 16  # `From 12.0 to 18.5 seconds.` and its end

Inputs = dict[str, torch.Tensor]


def plain_side(model: Any, backbone: str) -> Any:
    """Transformers' own class over the modules of ours, adapters in them included."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    with torch.device("meta"):
        plain = STOCK[backbone](base.config)

    plain.model, plain.lm_head, plain.generation_config = base.model, base.lm_head, base.generation_config
    return plain.train(base.training)


def plain_inputs(engine: Engine, inputs: Inputs) -> Inputs:
    """The same prompt of one row without its queries, as transformers' own class takes it."""
    names = engine.processor.tokenizer.convert_tokens_to_ids([STAQ_TOKEN, engine.prompter.video_token])
    query, video = names
    keep = inputs["input_ids"][0] != query
    plain = {name: inputs[name][:, keep] for name in ("input_ids", "attention_mask", "labels") if name in inputs}
    if "video_grid_thw" in inputs:
        plain |= {name: inputs[name] for name in ("pixel_values_videos", "video_grid_thw")}
        plain["mm_token_type_ids"] = 2 * (plain["input_ids"] == video).int()
    else:
        plain["pixel_values_videos"] = inputs["pixel_values"][None]

    return plain


def read_inputs(engine: Engine, item: GroundingItem, answer: list[int]) -> Inputs:
    """A prompt and its answer as a batch of one, on the device."""
    ids = torch.tensor([item.token_ids + answer])
    inputs = engine.prompter.model_inputs(ids.tolist(), [item.images], [item.videos])
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {name: value.to(device()) for name, value in inputs.items()}


def training_inputs(engine: Engine, row: AnnotationRow, item: GroundingItem) -> tuple[Inputs, Inputs]:
    """A row to learn from, ours and the plain side's."""
    tokenizer = engine.processor.tokenizer
    answer = [*tokenizer.encode(row.messages[-1].content), tokenizer.eos_token_id]
    ours = read_inputs(engine, item, answer)
    ours["labels"] = torch.full_like(ours["input_ids"], -100)
    ours["labels"][:, -len(answer) :] = ours["input_ids"][:, -len(answer) :]
    plain = plain_inputs(engine, ours)
    ours["box_targets"] = torch.tensor(query_targets(row, 0, item.videos)[1][0], device=device())
    return ours, plain


def lean_loss(plain: Any, inputs: Inputs) -> torch.Tensor:
    """The plain side's language loss with logits of the supervised positions alone."""
    inputs = dict(inputs)
    labels = inputs.pop("labels")
    states = plain.model(**inputs).last_hidden_state
    row, position = (labels[:, 1:] != -100).nonzero(as_tuple=True)
    logits = plain.lm_head(states[row, position]).float()
    return torch.nn.functional.cross_entropy(logits, labels[row, position + 1])


def ground(engine: Engine, item: GroundingItem) -> None:
    """What `spacevllm-cli ground` does, reading the frames included."""
    (prediction,) = ground_batch(engine.model, engine.prompter, [item], NEW_TOKENS)
    boxes = torch.tensor(prediction.boxes)
    if len(boxes) != len(item.videos[0].groups) or not boxes.isfinite().all():
        raise ValueError(f"{len(boxes)} boxes for {len(item.videos[0].groups)} queries, or some without a number")


@torch.no_grad()
def write(engine: Engine, plain: Any, item: GroundingItem, new_tokens: int = NEW_TOKENS) -> None:
    """The plain side's answer of so many tokens to the same prompt, reading the frames included."""
    inputs = plain_inputs(engine, read_inputs(engine, item, []))
    output = plain.generate(**inputs, min_new_tokens=new_tokens, max_new_tokens=new_tokens, do_sample=False)
    written = output[:, inputs["input_ids"].shape[1] :]
    if written.shape[1] != new_tokens:
        raise ValueError(f"{written.shape[1]} tokens instead of {new_tokens}")

    engine.processor.tokenizer.batch_decode(written)
