"""The space loss: L1 and GIoU over the queries that have a true box."""

import torch
from torchvision.ops import box_convert, generalized_box_iou_loss


def space_losses(
    boxes: torch.Tensor, targets: torch.Tensor, num_boxes: torch.Tensor | float | None = None
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
        giou = generalized_box_iou_loss(
            box_convert(boxes, "cxcywh", "xyxy"), box_convert(targets, "cxcywh", "xyxy"), eps=1e-7
        )
        giou = giou * valid
        if num_boxes is None:
            num_boxes = valid.sum()

        num_boxes = torch.as_tensor(num_boxes, device=boxes.device, dtype=torch.float32).clamp(min=1)
        return l1.sum() / num_boxes, giou.sum() / num_boxes
