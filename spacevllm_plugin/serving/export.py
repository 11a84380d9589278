"""Writes a SpaceVLLM model as an inference engine reads it: the stock checkpoint, and the sidecar's beside it."""

import copy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import Transpose, WeightConverter

from ..backbones.spec import BackboneSpec
from ..backbones.upgrade import spec_of
from ..inference.engine import Engine
from ..modeling.grounding_model import SpaceVLLMMixin, is_head
from .description import CHAT_TEMPLATE, SIDECAR, EngineExport
from .vocabulary import QueryVocabulary


VOCABULARY = ("embed_tokens.weight", "lm_head.weight")
# As most embeddings are padded, for the engines' kernels.
VOCABULARY_MULTIPLE = 64
# The text is written by us down to the last token. What is no list of parts is somebody's own request.
TEMPLATE = (
    "{%- for message in messages -%}{%- if message.content is string -%}{{- message.content -}}{%- else -%}"
    "{%- for part in message.content -%}{{- part.text if part.type == 'text' else 'PICTURE' -}}{%- endfor -%}"
    "{%- endif -%}{%- endfor -%}"
)


class ExportError(ValueError):
    """A model cannot be exported for engines; the message is one line."""


@torch.no_grad()
def write_export(engine: Engine, out: Path) -> EngineExport:
    """Write a model, adapters merged, for engines.

    Args:
        engine: The model, on the CPU or one GPU.
        out: A folder, there already.

    Raises:
        ExportError: Its backbone cannot be run by a stock class, or it is quantised.
    """
    model, processor = engine.model, engine.processor
    spec = spec_of(model.config.model_type, "the model")
    if spec.not_for_engines:
        raise ExportError(f"{spec.title} cannot be exported for engines: {spec.not_for_engines}")

    if not isinstance(model, SpaceVLLMMixin) or getattr(model.config, "quantization_config", None):
        raise ExportError("a quantised model, or an adapter on one, cannot be exported: name the base as it was")

    whole = copy.copy(processor)
    whole.tokenizer = copy.deepcopy(processor.tokenizer)
    most = -(-engine.prompter.options.video_maxlen // engine.prompter.temporal_patch_size)
    queries = QueryVocabulary.add_to(whole.tokenizer, model.staq_embedding.num_embeddings - 1, most)

    added = _write_stock(model, spec, queries, out)
    whole.save_pretrained(out)
    (out / CHAT_TEMPLATE).write_text(TEMPLATE.replace("PICTURE", spec.image_token), encoding="utf-8")
    _sidecar(model).save_pretrained(out / SIDECAR)
    processor.save_pretrained(out / SIDECAR)
    described = EngineExport(
        backbone=spec.name,
        queries=queries,
        picture_token=model.visual_token_ids[0],
        suppressed=sorted({*queries.all, model.config.staq_token_id, *model.visual_token_ids, *added}),
        num_layers=model.config.get_text_config().num_hidden_layers,
        presence_layer=model.presence_layer,
        merge_size=processor.image_processor.merge_size if spec.mrope else None,
    )
    described.write(out)
    return described


def _write_stock(model: Any, spec: BackboneSpec, queries: QueryVocabulary, out: Path) -> range:
    """A checkpoint of the backbone's own class with our weights, the queries among its vocabulary; the ids it has more."""
    weights = {name: value for name, value in model.state_dict().items() if not is_head(name)}
    rows = queries.rows(model.staq_embedding)
    embedding = next(name for name in weights if name.endswith(VOCABULARY[0]))
    size = max(len(weights[embedding]), max(queries.all) + 1)
    if size > len(weights[embedding]):
        size += -size % VOCABULARY_MULTIPLE

    # Untied: a query is never an answer, and a row of zeros has no logit worth speaking of.
    weights["lm_head.weight"] = _with_rows(model.lm_head.weight, size, queries.all, torch.zeros_like(rows))
    weights[embedding] = _with_rows(weights[embedding], size, queries.all, rows)
    config = _stock_config(model.config, spec, size)
    config.dtype = model.dtype
    config.architectures = [_from_transformers(spec.model_class).__name__]
    config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    # Not by transformers, whose releases differ in which older names they bring back, of whichever checkpoints.
    save_torch_state_dict(_as_on_the_hub(weights, spec), out, filename_pattern="model{suffix}.safetensors")
    return range(len(model.lm_head.weight), size)


def _as_on_the_hub(weights: dict[str, torch.Tensor], spec: BackboneSpec) -> dict[str, torch.Tensor]:
    """Weights in the layout of the hub's checkpoints, which engines read; transformers keeps some transposed."""
    kinds = [kind for kind in get_checkpoint_conversion_mapping(spec.name) or [] if isinstance(kind, WeightConverter)]
    turned = [
        (pattern, operation)
        for kind in kinds
        for operation in kind.operations
        if isinstance(operation, Transpose)
        for pattern in kind.target_patterns
    ]
    hub = dict(weights)
    for name, value in weights.items():
        for pattern, operation in turned:
            if pattern in name:
                hub[name] = value.transpose(operation.dim0, operation.dim1).contiguous()

    return hub


def _stock_config(config: PreTrainedConfig, spec: BackboneSpec, vocab_size: int) -> PreTrainedConfig:
    stock = _from_transformers(spec.config_class)
    ours = {"model_type", "architectures", "staq_token_id", "grounding", "preprocessing"}
    values = {name: value for name, value in config.to_dict().items() if name not in ours}
    known = stock().to_dict()
    if "video_token_id" not in known:
        values.pop("video_token_id", None)

    stock = stock(**values)
    stock.tie_word_embeddings = stock.get_text_config().tie_word_embeddings = False
    stock.get_text_config().vocab_size = vocab_size
    return stock


def _sidecar(model: Any) -> PreTrainedModel:
    """The same class without layers and vocabulary: what is left are the vision tower, the final norm and the heads."""
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    text.num_hidden_layers, text.vocab_size, text.pad_token_id = 0, 1, None
    if getattr(text, "layer_types", None):
        text.layer_types = []

    with torch.device("meta"):
        sidecar = type(model)(config)

    names = sidecar.state_dict()
    weights = {name: value for name, value in model.state_dict().items() if name in names}
    weights = {name: value[:1].clone() if name.endswith(VOCABULARY) else value for name, value in weights.items()}
    sidecar.load_state_dict(weights, assign=True)
    sidecar.tie_weights()
    return sidecar


def _with_rows(table: torch.Tensor, size: int, ids: list[int], rows: torch.Tensor) -> torch.Tensor:
    """A table of the vocabulary, (at least `size`, d), with other rows for some ids."""
    larger = table.new_zeros(size, table.shape[1])
    larger[: len(table)] = table
    larger[ids] = rows.to(larger)
    return larger


def _from_transformers(ours: type) -> Any:
    """The class of transformers that one of ours is made of."""
    return next(kind for kind in ours.__mro__ if kind.__module__.startswith("transformers.models."))
