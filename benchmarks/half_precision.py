"""What bf16 does to boxes: the heads' weights rounded, everything but the heads in bf16, and both, against fp32.

`python benchmarks/half_precision.py MODEL ROWS.jsonl` prints the difference of box coordinates in pixels of a frame 1920
wide. The heads compute in fp32 wherever they run; under DeepSpeed and FSDP in bf16 from weights that were rounded.
"""

import argparse
import copy
from itertools import islice
from pathlib import Path

import torch

from spacevllm_plugin.data.schema import read_rows
from spacevllm_plugin.inference.engine import row_item
from spacevllm_plugin.integration.engine_loader import load_engine
from spacevllm_plugin.modeling.grounding_model import is_head


WIDTH = 1920


def rounded(model: torch.nn.Module, heads: bool, others: bool) -> torch.nn.Module:
    """A copy with parts of it in bf16."""
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        if heads if is_head(name) else others:
            parameter.data = parameter.data.bfloat16()

    return model


def main() -> None:
    """Print one line for each way of rounding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a trained SpaceVLLM checkpoint")
    parser.add_argument("rows", type=Path, help="rows whose media lie beside them")
    parser.add_argument("--limit", type=int, default=40, help="rows to look at")
    args = parser.parse_args()
    engine = load_engine(args.model, infer_dtype="float32")
    rows = (row for row in read_rows(args.rows) if row.task in ("stvg", "rec"))
    items = [row_item(engine, row, args.rows.parent) for row in islice(rows, args.limit)]

    @torch.no_grad()
    def boxes(model: torch.nn.Module) -> torch.Tensor:
        found = []
        for item in items:
            inputs = engine.prompter.model_inputs([item.token_ids], [item.images], [item.videos])
            found.append(model(input_ids=torch.tensor([item.token_ids]), **inputs).boxes)

        return torch.cat(found)

    exact = boxes(engine.model)
    print(f"{len(exact)} boxes, pixels of {WIDTH}: mean, 95th percentile, largest")
    for name, heads, others in (
        ("the heads' weights rounded to bf16", True, False),
        ("all but the heads in bf16", False, True),
        ("both", True, True),
    ):
        off = (boxes(rounded(engine.model, heads, others)) - exact).abs().flatten() * WIDTH
        print(f"{name:36} {off.mean():6.2f} {off.quantile(0.95):6.2f} {off.max():6.2f}")


if __name__ == "__main__":
    main()
