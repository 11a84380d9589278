"""The detector: what the annotator needs of one, and Grounding-DINO."""

import re
from collections.abc import Sequence
from typing import Protocol

import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor
from transformers.image_transforms import center_to_corners_format

from .rows import Detection


class Detector(Protocol):
    """Finds things that are named in words."""

    def detect(self, images: Sequence[Image.Image], phrases: Sequence[str]) -> list[list[Detection]]:
        """The boxes of all phrases in each image; `label` is the phrase's index, boxes lie inside the image."""
        ...


class GroundingDino:
    """Grounding-DINO (or MM-Grounding-DINO) through transformers.

    A box's score for a phrase is the highest probability among the phrase's tokens; its label is the phrase with the
    highest score, and it counts if that is at least the threshold. Separators and special tokens count for nothing.

    Args:
        model: Name on the hub or folder of a checkpoint.
        threshold: Least score.
        device: Where it runs, for instance `cuda`; None: a GPU if there is one.

    Raises:
        OSError: There is no such checkpoint.
        ValueError: It is no zero-shot object detector.
    """

    def __init__(self, model: str, threshold: float = 0.3, device: str | None = None) -> None:
        self.threshold = threshold
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.processor = AutoProcessor.from_pretrained(model)
        self.model = AutoModelForZeroShotObjectDetection.from_pretrained(model).to(self.device).eval()
        tokenizer = self.processor.tokenizer
        separators = tokenizer.convert_tokens_to_ids([".", "?"])
        separators += [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id]
        self._separators = torch.tensor(separators, device=self.device)

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image], phrases: Sequence[str]) -> list[list[Detection]]:
        """See `Detector`; all images go through the model at once."""
        text = "".join(f"{_plain(phrase)}. " for phrase in phrases).strip()
        inputs = self.processor(
            images=list(images),
            text=[text] * len(images),
            return_tensors="pt",
            truncation=True,
            max_length=self.model.config.max_text_len,
        ).to(self.device)
        outputs = self.model(**inputs)
        sizes = [image.size for image in images]
        return self.decode(outputs.logits, outputs.pred_boxes, inputs["input_ids"][0], len(phrases), sizes)

    def decode(
        self,
        logits: torch.Tensor,
        boxes: torch.Tensor,
        input_ids: torch.Tensor,
        num_phrases: int,
        sizes: Sequence[tuple[int, int]],
    ) -> list[list[Detection]]:
        """The model's output as detections, the surest first.

        Args:
            logits: (images, queries, at least tokens).
            boxes: (images, queries, 4), cxcywh in 0..1.
            input_ids: (tokens,), the same prompt for all images.
            num_phrases: Phrases in the prompt.
            sizes: Width and height of each image, in pixels.
        """
        owner = self._owners(input_ids)
        tokens = logits[..., : len(owner)].float().sigmoid()
        # A box's score for each phrase, (images, queries, phrases).
        scores = torch.stack([tokens.masked_fill(owner != i, 0.0).amax(-1) for i in range(num_phrases)], dim=-1)
        confidence, label = (values.cpu() for values in scores.max(-1))
        scale = torch.tensor([(*size, *size) for size in sizes], dtype=torch.float64)
        corners = center_to_corners_format(boxes.double().cpu()).clamp(0, 1) * scale[:, None]
        found = []
        for image in range(len(sizes)):
            order = confidence[image].argsort(descending=True, stable=True).tolist()
            detections = [
                Detection(
                    label=int(label[image, query]),
                    score=round(float(confidence[image, query]), 4),
                    box=tuple(round(value, 2) for value in corners[image, query].tolist()),
                )
                for query in order
                if confidence[image, query] >= self.threshold
            ]
            # Rounding and the frame's edge may leave nothing of a box.
            found.append([d for d in detections if d.box[0] < d.box[2] and d.box[1] < d.box[3]])

        return found

    def _owners(self, input_ids: torch.Tensor) -> torch.Tensor:
        """For each token the index of its phrase; -1 for separators and special tokens."""
        separator = torch.isin(input_ids, self._separators)
        starts = ~separator & torch.roll(separator, 1)  # the first token, [CLS], is a separator itself
        return (starts.cumsum(0) - 1).masked_fill(separator, -1)


def _plain(phrase: str) -> str:
    """A phrase without the characters that would end it."""
    return re.sub(r"[.?\s]+", " ", phrase).strip().lower() or "object"
