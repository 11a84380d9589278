"""Claim: grounding a video, boxes and all, takes no longer than the plain backbone needs to write the span alone.

`python benchmarks/grounding.py [--size tiny|100m|7b]` times three sides in turns, on one video of `--frames`:

- `ground`: ours: span as text, boxes from the queries.
- the plain backbone writing the span alone, in as many tokens.
- the plain backbone writing the span and then the boxes as text, in hundredths of the frame as `control.py` trains it to:
  one for each frame that has a query. Only the number of tokens matters, as the weights are random.

Reading the frames is part of all three. The tokenizer splits numbers into digits as Qwen's does.
"""

from functools import partial

from control import text_answer
from gpu.asked import write_asked
from gpu.claims import about, command_line, report, setting
from gpu.measuring import measured, rows_of
from gpu.sides import NEW_TOKENS, ground, plain_side, write

from spacevllm_plugin.data.schema import AnnotationRow
from spacevllm_plugin.data.tube import interpolate_boxes
from spacevllm_plugin.inference.engine import row_item


def with_boxes_at(row: AnnotationRow, frames: list[int]) -> dict:
    """The row as `control.text_answer` takes it, with a box at each of these frames."""
    boxes = interpolate_boxes(row.target.frames, row.target.boxes, frames).tolist()
    return {**row.model_dump(), "target": {"frames": frames, "boxes": boxes}}


def main() -> None:
    """Measure and print a table."""
    parser = command_line(__doc__)
    parser.add_argument("--boxes", type=int, help="that the text holds (default: one for each query)")
    args = parser.parse_args()
    with setting(args) as chosen:
        engine = chosen.grounding()
        row, *_ = write_asked(chosen.work / "data", chosen.side, chosen.frames)
        item = row_item(engine, row, chosen.work / "data")
        frames = list(item.videos[0].frames)[: args.boxes]
        text = text_answer(with_boxes_at(row, frames))
        text_tokens = len(engine.processor.tokenizer.encode(text)) + 1  # and its end
        plain = plain_side(engine.model, chosen.shape.backbone)
        actions = {
            "ground": partial(ground, engine, item),
            "plain, span only": partial(write, engine, plain, item),
            "plain, boxes as text": partial(write, engine, plain, item, text_tokens),
        }
        for name in ("ground", "plain, span only"):  # the last is the second with more tokens
            actions[name]()

        taken = chosen.turns_of({name: partial(measured, action) for name, action in actions.items()})
        tokens = dict(zip(actions, (NEW_TOKENS, NEW_TOKENS, text_tokens)))
        rows = [{**one, "new_tokens": tokens[one["side"]]} for one in rows_of(taken, "plain, span only")]
        facts = {"frames": chosen.frames, "boxes": len(frames), "prompt_tokens": len(item.token_ids)}
        report(args, "grounding", rows, **about(engine.model), **facts)


if __name__ == "__main__":
    main()
