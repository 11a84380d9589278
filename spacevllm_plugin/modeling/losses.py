"""The space loss, L1 and GIoU over the queries that have a true box, and the presence loss over all of their videos."""

import torch
from torch.nn import functional as F
from torchvision.ops import box_convert


EPSILON = 1e-7  # torchvision's; keeps boxes without an area from a division by zero


def giou_loss(boxes: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What torchvision's `generalized_box_iou_loss` computes, without its indexing by a mask.

    That makes the host wait for the GPU, which then has nothing to do until the backward pass has been launched.

    Args:
        boxes: (n, 4) boxes (x1, y1, x2, y2).
        targets: (n, 4) boxes (x1, y1, x2, y2).

    Returns:
        1 - GIoU, shape (n,).
    """
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    left, top, right, bottom = targets.unbind(dim=-1)
    width, height = torch.min(x2, right) - torch.max(x1, left), torch.min(y2, bottom) - torch.max(y1, top)
    intersection = torch.where((width > 0) & (height > 0), width * height, 0)
    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - intersection
    hull = (torch.max(x2, right) - torch.min(x1, left)) * (torch.max(y2, bottom) - torch.min(y1, top))
    return 1 - (intersection / (union + EPSILON) - (hull - union) / (hull + EPSILON))


def space_losses(
    boxes: torch.Tensor, targets: torch.Tensor, num_boxes: torch.Tensor | int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """L1 and GIoU loss as DETR (arXiv 2005.12872) defines them, in fp32.

    Args:
        boxes: (n, 4) predicted boxes, normalised (cx, cy, w, h).
        targets: (n, 4) true boxes in the same format; a line of NaN has no target and counts for nothing.
        num_boxes: What the sums are divided by: the number of true boxes in the whole accumulated batch of all
            ranks. None means those given here.

    Returns:
        `(l1, giou)`, both scalars; exactly zero, but connected to the graph, where nothing has a target. Every rank
        of a distributed run therefore runs the same backward.
    """
    with torch.autocast(boxes.device.type, enabled=False):
        boxes, targets = boxes.float(), targets.float()
        valid = torch.isfinite(targets).all(dim=-1)
        # A harmless stand-in keeps the graph free of data-dependent shapes and of NaN gradients.
        targets = torch.where(valid[:, None], targets, boxes.detach())
        l1 = (boxes - targets).abs().sum(dim=-1) * valid
        giou = giou_loss(box_convert(boxes, "cxcywh", "xyxy"), box_convert(targets, "cxcywh", "xyxy"))
        giou = giou * valid
        if num_boxes is None:
            num_boxes = valid.sum()

        num_boxes = torch.as_tensor(num_boxes, device=boxes.device, dtype=torch.float32).clamp(min=1)
        return l1.sum() / num_boxes, giou.sum() / num_boxes


def presence_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    frame_index: torch.Tensor,
    num_boxes: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Binary cross-entropy, in fp32, of whether a frame lies in the tube; frames outside the tube are the negatives.

    PAPER: after the presence score of Bridge-STG; not in SpaceVLLM.

    Args:
        logits: (n,) one per query.
        targets: (n, 4) true boxes; a line of NaN has none. Videos without any true box, and images, count for nothing.
        frame_index: (n,) index of the query's frame in its video; 0 starts a video, -1 is an image.
        num_boxes: As for `space_losses`, which it shares so that a batch can be split in any way: the result is the
            mean over frames, times the frames there are for each true box.
    """
    with torch.autocast(logits.device.type, enabled=False):
        present = torch.isfinite(targets).all(dim=-1)
        video = (frame_index <= 0).cumsum(dim=0) - 1
        boxes_in_video = torch.zeros_like(video).index_add(0, video, present.to(video.dtype))
        counts = (boxes_in_video[video] > 0) & (frame_index >= 0)
        losses = F.binary_cross_entropy_with_logits(logits.float(), present.float(), reduction="none") * counts
        if num_boxes is None:
            num_boxes = present.sum()

        num_boxes = torch.as_tensor(num_boxes, device=logits.device, dtype=torch.float32).clamp(min=1)
        return losses.sum() / num_boxes
