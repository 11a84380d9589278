"""Language models whose layers mostly keep one state instead of keys and values (gated delta net, since Qwen3.5)."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from ...modeling.prefix import Suffixes
from .model import SpaceVLLMQwen3Mixin


# Before, several tokens behind a cache began with an empty state, and nothing told.
READS_ON_FROM_A_STATE = Version(transformers.__version__) >= Version("5.8")


def _keep_padding_out(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Padding before a prompt would be read into the state. Upstream sees to it, but not in a batch of one."""
    states, mask = kwargs["hidden_states"], kwargs["attention_mask"]
    if _folded(kwargs["cache_params"]):
        kwargs["hidden_states"] = kwargs["cache_params"].unfold(states)
    elif mask is not None:
        kwargs["hidden_states"] = states * mask[..., None].to(states)

    return args, kwargs


def _fold_again(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
    return kwargs["cache_params"].fold(output) if _folded(kwargs["cache_params"]) else output


def _folded(cache: Any) -> bool:
    """Whether the language model takes several sentences for one sequence, which no state can."""
    return isinstance(cache, Suffixes) and cache.rows > 1


class SpaceVLLMQwenLinearMixin(SpaceVLLMQwen3Mixin):
    """Keeps padding out of the states, and goes on from those of a cache."""

    shared_layers = (DynamicLayer, LinearAttentionLayer)
    one_sentence = "its linear attention reads a sequence into one state, which no mask keeps the sentences apart in"
    # As transformers 5.5 saves the vision tower of a plain model.
    weight_names = {r"^model\.language_model\.visual\.": "model.visual."}

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for layer in self.model.language_model.layers:
            if hasattr(layer, "linear_attn"):
                layer.linear_attn.register_forward_pre_hook(_keep_padding_out, with_kwargs=True)
                layer.linear_attn.register_forward_hook(_fold_again, with_kwargs=True)

    def run_language_model(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any | None = None,
        **inputs: Any,
    ) -> Any:
        """See `SpaceVLLMMixin`. Behind a cache token by token, where transformers would forget what was before."""
        run = partial(super().run_language_model, past_key_values=past_key_values, **inputs)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        length = inputs_embeds.shape[1]
        # Sentences of different lengths: padding before one must not be read into its state either.
        ragged = length > 1 and _folded(past_key_values) and not attention_mask[:, past:].all()
        if past == 0 or length == 1 or READS_ON_FROM_A_STATE and not ragged:
            return run(inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids)

        outputs = []
        for i in range(length):
            with past_key_values.kept_for(attention_mask[:, past + i].bool()) if ragged else nullcontext():
                outputs.append(
                    run(
                        inputs_embeds=inputs_embeds[:, i : i + 1],
                        attention_mask=attention_mask[:, : past + i + 1] if attention_mask is not None else None,
                        position_ids=position_ids[..., i : i + 1] if position_ids is not None else None,
                    )
                )

        outputs[-1].last_hidden_state = torch.cat([output.last_hidden_state for output in outputs], dim=1)
        return outputs[-1]
