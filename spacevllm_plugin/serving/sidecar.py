"""What stands beside an engine: the vision tower before its language model, and the space decoder behind."""

import threading
from dataclasses import dataclass
from typing import Any

import torch

from ..inference.engine import Engine
from ..inference.items import GroundingItem
from ..modeling.layout import Layout, index_queries
from ..modeling.space_decoder import Decoded
from .description import EngineExport
from .prompt import EnginePrompt, make_prompt, read_media


@dataclass(frozen=True)
class States:
    """States of a prompt, as an engine hands them out.

    Attributes:
        last: (sequence, d), behind the last layer.
        normed: Whether the final norm was applied to these already.
        earlier: (sequence, d), what goes into `EngineExport.presence_layer`; None where the engine does not tell.
    """

    last: torch.Tensor
    normed: bool
    earlier: torch.Tensor | None = None


class Sidecar:
    """Makes prompts for an engine and boxes of its states; may be used from several threads.

    Args:
        engine: The export's `sidecar` folder, loaded: a model without a layer.
        export: The export's description.
        presence: Whether the engine tells what the presence head reads; without it, that head says nothing.
    """

    def __init__(self, engine: Engine, export: EngineExport, presence: bool = True) -> None:
        self.engine, self.export = engine, export
        if not presence:
            engine.model.space_decoder.presence = None

        # One prompt at a time in the vision tower, or one's boxes: side by side they would take the memory of both.
        self._turn = threading.Lock()

    def prompt(self, item: GroundingItem) -> EnginePrompt:
        """Read a prompt's media and translate it.

        Raises:
            MediaError: A medium cannot be read, or a video has too many queries.
        """
        media = read_media(self.engine, item)
        with self._turn:
            return make_prompt(self.engine, self.export, item, media)

    @torch.inference_mode()
    def decode(self, prompt: EnginePrompt, states: States) -> Decoded | None:
        """The boxes of a prompt's queries; None where it has none.

        Args:
            prompt: The prompt.
            states: Of all its tokens.
        """
        if prompt.layout is None:
            return None

        model = self.engine.model
        with self._turn:
            last = states.last.to(model.device)
            if not states.normed:
                last = model.model.language_model.norm(last)

            earlier = states.earlier.to(model.device)[None] if states.earlier is not None else None
            return decode_states(model, prompt, last[None], earlier)


def decode_states(model: Any, prompt: EnginePrompt, states: torch.Tensor, earlier: torch.Tensor | None) -> Decoded:
    """Boxes of one prompt's states, by a model's space decoder.

    Args:
        model: A SpaceVLLM model, with layers or without.
        prompt: The prompt.
        states: (1, sequence, d), behind the final norm.
        earlier: (1, sequence, d), for the presence head.
    """
    index = index_queries(prompt.is_query, prompt.is_visual, Layout.unpack(prompt.layout))
    return model._decode_boxes(len(prompt.layout), index.to(states.device), states, earlier)
