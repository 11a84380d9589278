"""The model: a backbone with queries in its prompt and a space decoder on its last states."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from torch.nn import functional as F
from transformers import initialization
from transformers.cache_utils import DynamicLayer
from transformers.utils import ModelOutput

from .anchor import anchor_sums
from .box_bits import from_bits
from .configuration import GroundingOptions, LossOptions
from .generation import SpaceVLLMGenerationMixin, keep_prefill_boxes
from .layer_input import layer_input
from .layout import BoxLines, Layout, QueryIndex, index_queries, moved
from .losses import presence_loss, space_losses
from .prefix import Suffixes, VideoPrefix, folded, may_share
from .queries import STAQEmbedding
from .sentences import sentence_mask, sentence_positions, token_counts
from .space_decoder import Decoded, FP32Affine, ScaledStates, SpaceDecoder


# The modules that a backbone does not have: trained in full beside LoRA, never quantised.
HEAD_MODULES = ("staq_embedding", "space_decoder")

WITHOUT_LAYOUT = (
    "The prompt holds images or videos but comes without `staq_layout`, so they would not be seen. Prepare it with one of "
    "SpaceVLLM's templates (`template: spacevllm` and the like), not with the backbone's own processor."
)
BEHIND_A_CACHE = (
    "There are images or videos behind what `past_key_values` holds, where they would not be seen. Give the whole "
    "conversation without a cache, and its prompt in one piece."
)


def is_head(name: str) -> bool:
    """Whether a parameter or a module of this name, however wrapped, belongs to the queries or the space decoder."""
    return any(module in name for module in HEAD_MODULES)


def expect_features(is_visual: torch.Tensor, given: int) -> None:
    """Raises `ValueError` where there is not one feature for each visual token, True in (batch, sequence) on the host."""
    wanted = int(is_visual.sum())
    if wanted != given:
        raise ValueError(f"{wanted} visual tokens in the prompt but {given} features.")


@dataclass
class SpaceVLLMOutput(ModelOutput):
    """Output of a SpaceVLLM model.

    Attributes:
        loss: Language loss plus weighted space loss.
        logits: (batch, kept positions, vocabulary); in training only the supervised positions' are ever computed and
            none are returned.
        boxes: (total_queries, 4), or one for each of `box_lines`: normalised (cx, cy, w, h), fp32; None where the input has
            no query token. In training zeros for rows without any true box, whose boxes nothing would learn from.
        loss_lm: The language loss alone.
        loss_l1: The L1 part of the space loss, unweighted.
        loss_giou: The GIoU part of the space loss, unweighted.
        presence: (total_queries,) logits of the presence head, zeros where `boxes` are; None without it.
        loss_presence: The presence loss, unweighted.
        anchor_sums: (3,) with labels, see `anchor.anchor_sums`; None with `box_anchor: none`.
        extra_losses: The language model's further losses by name, unweighted; None where nothing learns from them.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Any | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    rope_deltas: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    loss_lm: torch.Tensor | None = None
    loss_l1: torch.Tensor | None = None
    loss_giou: torch.Tensor | None = None
    presence: torch.Tensor | None = None
    loss_presence: torch.Tensor | None = None
    anchor_sums: torch.Tensor | None = None
    extra_losses: dict[str, torch.Tensor] | None = None


class SpaceVLLMMixin(SpaceVLLMGenerationMixin):
    """Queries, space decoder and losses over any backbone.

    A backbone class adds `visual_token_ids`, `visual_inputs` and `embed_visual`, and where its positions depend on the
    images, `get_rope_index`.
    """

    visual_inputs: tuple[str, ...]  # names of the tensors that `embed_visual` takes
    # Names of weights in files -> names here, as patterns: what other releases of transformers wrote, and it does not know.
    weight_names: Mapping[str, str] = MappingProxyType({})
    per_query_inputs: tuple[str, ...] = ("staq_layout",)  # tensors with one line per query token
    # Why rows about one video cannot be one sequence; None where causal attention with a mask is all that lets one token
    # see another, so that they can.
    one_sentence: str | None = "its room does not say that its attention keeps to a mask"
    # Where that is not all: kinds of cache layers that it can read sentences behind one prefix with all the same, see `prefix`.
    shared_layers: tuple[type, ...] = ()

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        options = GroundingOptions(**(config.grounding or {}))
        width = config.get_text_config().hidden_size
        self.staq_embedding = STAQEmbedding(options.staq_num_queries, width)
        self.space_decoder = SpaceDecoder(
            width,
            options.space_decoder_attention,
            options.space_decoder_mlp_layers,
            options.box_anchor,
            options.presence_head,
        )
        # Early enough that the layers behind it can write the span from what the queries have found.
        depth = config.get_text_config().num_hidden_layers
        self.presence_layer = depth - max(1, depth // 4) if options.presence_head else None
        self.loss_options = LossOptions()
        self.post_init()
        # A model spread over GPUs keeps its decoder whole. FSDP would take it for a unit, and round what goes in.
        if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
            self._no_split_modules = {*self._no_split_modules, SpaceDecoder.__name__}

    def _init_weights(self, module: torch.nn.Module) -> None:
        std = self.config.get_text_config().initializer_range
        if isinstance(module, STAQEmbedding):  # not every backbone initialises embeddings
            initialization.normal_(module.weight, std=std)
        elif isinstance(module, FP32Affine):  # transformers 5.8 initialises a copy of half-precision weights
            initialization.normal_(module.weight, std=std)
            initialization.zeros_(module.bias)
        elif isinstance(module, ScaledStates):
            initialization.zeros_(module.log_scale)
        else:
            super()._init_weights(module)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save as transformers does, each weight under its own name.

        Transformers would bring back the older names of the checkpoints on the hub, but each release its own way: others
        do not find the weights again, and its trainer, which looks for them as they are called here, resumes without.
        """
        super().save_pretrained(*args, **{**kwargs, "save_original_format": False})

    @property
    def shares_prefixes(self) -> bool:
        """Whether sentences about the same media can share what was read up to these; else each row reads them."""
        layers = (DynamicLayer,) if self.one_sentence is None else self.shared_layers
        return may_share(self.config.get_text_config(), layers)

    @property
    def unread_modules(self) -> list[torch.nn.Module]:
        """Modules of the backbone that nothing is computed with; all others are at each step of a training."""
        return []

    @property
    def visual_token_ids(self) -> tuple[int, int]:
        """Ids that stand for visual tokens in the prompt."""
        return self.config.image_token_id, self.config.video_token_id

    def _is_query(self, input_ids: torch.Tensor) -> torch.Tensor:
        return input_ids == self.config.staq_token_id

    def _is_visual(self, input_ids: torch.Tensor) -> torch.Tensor:
        image, video = self.visual_token_ids
        return (input_ids == image) | (input_ids == video)

    def embed_visual(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor, layout: Layout, **visual: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Put the vision tower's features in the places of the visual tokens, in one call of the tower.

        Args:
            input_ids: (batch, sequence), on the host.
            inputs_embeds: (batch, sequence, d).
            layout: The queries' layout, on the host.
            **visual: The `visual_inputs`.

        Returns:
            The new `inputs_embeds` and further arguments of the language model.
        """
        raise NotImplementedError

    def put_visual(self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """The new `inputs_embeds`, with features in the places of the visual tokens.

        Args:
            input_ids: (batch, sequence), on the host.
            inputs_embeds: (batch, sequence, d).
            features: (visual tokens, d), in the order of their tokens.
        """
        mask = self._is_visual(input_ids)
        expect_features(mask, len(features))
        features = features.to(inputs_embeds)
        return inputs_embeds.masked_scatter(moved(mask, features.device)[..., None], features)

    def prefill_positions(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, staq_layout: torch.Tensor | None, **visual
    ) -> torch.Tensor | None:
        """Position ids of a prompt; None lets the language model count."""
        return None

    def run_language_model(self, **inputs: Any) -> Any:
        """The language model's output, for a backbone whose language model needs more than to be called.

        Args:
            **inputs: `inputs_embeds` (batch, sequence, d), `attention_mask`, `position_ids`, `past_key_values` and
                whatever else `forward` passes on.
        """
        run = partial(self.model.language_model, input_ids=None)
        suffixes = inputs.get("past_key_values")
        if isinstance(suffixes, Suffixes) and suffixes.rows > 1:
            del inputs["past_key_values"]
            return folded(run, suffixes, self.config.get_text_config()._attn_implementation, **inputs)

        return run(**inputs)

    @property
    def extra_loss_weights(self) -> dict[str, float]:
        """Weights of the language model's further losses, by the names they are logged under; those that count only."""
        return {}

    def extra_losses(self, outputs: Any, attention_mask: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Further losses of the language model, such as a router's; asked for only where gradients are kept.

        Args:
            outputs: What `run_language_model` has returned.
            attention_mask: (batch, sequence), how often each token counts: 0 for padding, and where several sentences
                follow one video, their number for what they share.

        Returns:
            A mean over this batch for each name of `extra_loss_weights`, (), unweighted.
        """
        return {}

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Any | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        staq_layout: torch.LongTensor | None = None,
        box_targets: torch.Tensor | None = None,
        sentence_ids: torch.LongTensor | None = None,
        box_lines: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        pixel_values_videos: torch.FloatTensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        media: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        num_boxes_in_batch: torch.Tensor | int | None = None,
        num_micro_batches: int = 1,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> SpaceVLLMOutput:
        """Run the model.

        Args:
            input_ids: (batch, sequence), with the placeholder token where a query stands.
            attention_mask: (batch, sequence).
            position_ids: As the backbone defines them, and with `sentence_ids` as `sentence_positions` makes them.
            past_key_values: Cache. An empty `VideoPrefix` is filled, and no boxes are decoded; with `Suffixes`, the tokens
                are those behind its prefix, and the first call decodes the boxes of all rows.
            inputs_embeds: Instead of `input_ids`; then without images, videos and queries.
            labels: (batch, sequence), -100 where nothing is learned.
            staq_layout: (total_queries, 8), see `layout.Layout`.
            box_targets: (total_queries, 4), or with `box_lines` one for each of these: normalised (cx, cy, w, h); NaN
                lines have no target. Numbers, or their `to_bits` where something on the way here would round numbers.
            sentence_ids: (batch, sequence), where several sentences follow one video, see `sentences`.
            box_lines: (boxes, 4), with `sentence_ids`: the boxes wanted, see `layout.BoxLines`.
            pixel_values: Images, as the backbone's processor makes them.
            pixel_values_videos: Videos, as the backbone's processor makes them.
            image_grid_thw: Qwen: patch grid of each image.
            video_grid_thw: Qwen: patch grid of each video.
            media: (appearances,), where pixels are there once for media that appear several times: the number among those
                given of each appearance's, in the order in which the backbone's vision tower takes them.
            num_items_in_batch: Supervised tokens of the whole accumulated batch of all ranks; None: of this one.
            num_boxes_in_batch: True boxes of the whole accumulated batch of all ranks; None: of this one.
            num_micro_batches: Calls like this one that the whole accumulated batch of all ranks takes.
            logits_to_keep: As in transformers.
            **kwargs: Passed on to the language model.
        """
        given = {
            "pixel_values": pixel_values,
            "pixel_values_videos": pixel_values_videos,
            "image_grid_thw": image_grid_thw,
            "video_grid_thw": video_grid_thw,
            "media": media,
        }
        visual = {name: given[name] for name in self.visual_inputs}
        past_length = past_key_values.get_seq_length() if past_key_values is not None else 0
        is_prefill = input_ids is not None and past_length == 0
        # What depends on values is looked up on the host, before the language model is launched: of a GPU each answer
        # would be waited for, behind all that it has been given to do.
        host_ids = None
        if input_ids is not None and (is_prefill or input_ids.shape[1] > 1):
            host_ids = input_ids.cpu()  # not a single one, which has been generated

        if inputs_embeds is None:
            known = input_ids
            if host_ids is not None:
                # Queries and features take the places of these, which may be tokens that the embedding has no rows for.
                known = input_ids.masked_fill(self._is_query(input_ids) | self._is_visual(input_ids), 0)

            inputs_embeds = self.get_input_embeddings()(known)

        # A model may be spread over GPUs: all that is put into the prompt is where its embeddings are.
        device = inputs_embeds.device
        layout = lines = index = supervised = None
        if labels is not None:
            labels = labels.cpu()
            supervised = (labels[:, 1:] != -100).nonzero(as_tuple=True)

        if is_prefill and staq_layout is not None:
            layout = Layout.unpack(staq_layout.cpu())
            lines = BoxLines.unpack(box_lines.cpu()) if box_lines is not None else None
            is_query, is_visual = self._is_query(host_ids), self._is_visual(host_ids)
            if box_targets is not None:
                box_targets = from_bits(box_targets).cpu()
            elif labels is not None:
                box_targets = torch.full((len(staq_layout if box_lines is None else box_lines), 4), torch.nan)

            wanted = box_targets if self.training and labels is not None else None
            index = index_queries(is_query, is_visual, layout, wanted, lines)
            queries = self.staq_embedding(Layout.unpack(staq_layout.to(device))).to(inputs_embeds)
            inputs_embeds = inputs_embeds.masked_scatter(moved(is_query, device)[..., None], queries)
            inputs_embeds, language_inputs = self.embed_visual(host_ids, inputs_embeds, layout, **visual)
            kwargs.update(language_inputs)
            layout = layout.of_boxes(lines)
        elif host_ids is not None and (self._is_query(host_ids) | self._is_visual(host_ids)).any():
            raise ValueError(WITHOUT_LAYOUT if is_prefill else BEHIND_A_CACHE)

        if is_prefill and position_ids is None:
            position_ids = self.prefill_positions(input_ids, attention_mask, staq_layout, **visual)
            if sentence_ids is not None:
                if position_ids is None:
                    position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]

                position_ids = sentence_positions(position_ids, sentence_ids.to(position_ids.device))

        language_mask = attention_mask
        if sentence_ids is not None:
            if self.one_sentence:
                raise ValueError(f"{type(self).__name__} reads one sentence in a sequence: {self.one_sentence}.")

            language_mask = sentence_mask(self.config.get_text_config(), inputs_embeds, attention_mask, sentence_ids)

        language_model = self.model.language_model
        needs_earlier = layout is not None and self.presence_layer is not None
        with layer_input(language_model.layers[self.presence_layer]) if needs_earlier else nullcontext() as earlier:
            outputs = self.run_language_model(
                inputs_embeds=inputs_embeds,
                attention_mask=language_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                **kwargs,
            )

        states = outputs.last_hidden_state
        result = SpaceVLLMOutput(
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            rope_deltas=getattr(self.model, "rope_deltas", None),
        )
        if isinstance(past_key_values, VideoPrefix) and is_prefill:
            past_key_values.keep(input_ids, states, earlier[0] if earlier else None, position_ids)
        elif isinstance(past_key_values, Suffixes) and past_key_values.layouts is not None:
            result.boxes, result.presence, _ = self._decode_shared_boxes(past_key_values, states, attention_mask)
            keep_prefill_boxes(result.boxes)
        elif layout is not None:
            result.boxes, result.presence, anchor = self._decode_boxes(
                len(layout.frame_index),
                index.to(states.device),
                states,
                earlier[0].to(states.device) if earlier else None,
            )
            if not self.training:
                keep_prefill_boxes(result.boxes)

        if labels is not None:
            self._add_language_loss(result, states, labels, supervised, num_items_in_batch)
            if self.extra_loss_weights and torch.is_grad_enabled():
                counts = attention_mask
                if sentence_ids is not None:
                    counts = token_counts(sentence_ids) * (1 if attention_mask is None else attention_mask)

                self._add_extra_losses(result, self.extra_losses(outputs, counts), num_micro_batches)

            if layout is not None:
                self._add_space_losses(result, layout, box_targets, num_boxes_in_batch)
                if anchor is not None:
                    targets = moved(box_targets[index.line], anchor.center.device)
                    result.anchor_sums = anchor_sums(anchor, targets)

        if not (self.training and labels is not None):
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            result.logits = self.lm_head(states[:, kept, :])

        return result

    def _decode_boxes(
        self, total: int, index: QueryIndex, states: torch.Tensor, earlier: torch.Tensor | None
    ) -> Decoded:
        # The first by position: peft's wrapper of modules to save wants one such argument.
        boxes, presence, anchor = self.space_decoder(
            states[index.row, index.position],
            states=states.flatten(0, 1),
            visual=index.row[:, None] * states.shape[1] + index.visual,
            visual_mask=index.visual_mask,
            centers=index.centers,
            caption=states[index.caption_row[:, None], index.caption],
            caption_mask=index.caption_mask,
            queries_per_caption=index.queries_per_caption,
            earlier=earlier[index.row, index.position] if earlier is not None else None,
        )
        line = index.line.to(boxes.device)
        boxes = boxes.new_zeros(total, 4).index_copy(0, line, boxes)
        if presence is not None:
            presence = presence.new_zeros(total).index_copy(0, line, presence)

        return Decoded(boxes, presence, anchor)

    def _decode_shared_boxes(self, suffixes: Suffixes, states: torch.Tensor, attention_mask: torch.Tensor) -> Decoded:
        """The boxes of all rows, from the one prefix and the sentences behind it."""
        prefix, device = suffixes.prefix, states.device
        ids, layout = prefix.input_ids.cpu(), Layout.unpack(suffixes.layouts[0].cpu())
        lines = suffixes.box_lines(self._is_query(ids), attention_mask)
        behind = (0, states.shape[0] * states.shape[1])
        is_query, is_visual = (F.pad(found(ids), behind) for found in (self._is_query, self._is_visual))
        index = index_queries(is_query, is_visual, layout, box_lines=lines)
        together = torch.cat([prefix.states.to(device), suffixes.fold(states)], dim=1)
        earlier = prefix.earlier.to(device) if prefix.earlier is not None else None
        suffixes.layouts = None
        return self._decode_boxes(len(lines.query), index.to(device), together, earlier)

    def _add_language_loss(
        self,
        result: SpaceVLLMOutput,
        states: torch.Tensor,
        labels: torch.Tensor,
        supervised: tuple[torch.Tensor, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None,
    ) -> None:
        # A prompt is thousands of visual tokens and an answer a dozen: logits of the prompt would only cost memory.
        row, position = supervised
        targets = moved(labels[row, position + 1], states.device)
        logits = self.lm_head(states[moved(row, states.device), moved(position, states.device)]).float()
        total = F.cross_entropy(logits, targets.to(logits.device), reduction="sum")
        count = len(row) if num_items_in_batch is None else num_items_in_batch
        count = torch.as_tensor(count, device=total.device, dtype=torch.float32).clamp(min=1)
        result.loss = result.loss_lm = total / count

    def _add_extra_losses(
        self, result: SpaceVLLMOutput, losses: dict[str, torch.Tensor], num_micro_batches: int
    ) -> None:
        # Each is a mean of its own, with nothing to count: shares of equal size make up the whole batch's.
        result.extra_losses = {name: loss / num_micro_batches for name, loss in losses.items()}
        for name, loss in result.extra_losses.items():
            result.loss = result.loss + (self.extra_loss_weights[name] * loss).to(result.loss.device)

    def _add_space_losses(
        self,
        result: SpaceVLLMOutput,
        layout: Layout,
        box_targets: torch.Tensor,
        num_boxes_in_batch: torch.Tensor | int | None,
    ) -> None:
        weights, device = self.loss_options, result.boxes.device
        box_targets, frame_index = moved(box_targets, device), moved(layout.frame_index, device)
        result.loss_l1, result.loss_giou = space_losses(result.boxes, box_targets, num_boxes_in_batch)
        space_loss = weights.box_l1_weight * result.loss_l1 + weights.box_giou_weight * result.loss_giou
        result.loss = result.loss + (weights.space_loss_weight * space_loss).to(result.loss.device)
        if result.presence is not None:
            result.loss_presence = presence_loss(result.presence, box_targets, frame_index, num_boxes_in_batch)
            weighted = weights.presence_loss_weight * result.loss_presence
            result.loss = result.loss + weighted.to(result.loss.device)
