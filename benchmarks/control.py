"""The control: the same tiny backbone, the same videos and steps, trained by plain LLaMA-Factory to write boxes as text.

`python benchmarks/control.py` trains SpaceVLLM once and the control twice (as many steps, and three times as many),
then scores all three on the same held-out videos and times them one video at a time, in turn, in one process each.
Writes outputs/control/report.json. The control runs with SPACEVLLM_DISABLE=1: LLaMA-Factory is not hooked there. Both sides
train with LLaMA-Factory's Muon; its iteration is computed in fp32 for both, as bf16 takes hours on a CPU.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path


QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
RECIPE = QUICKSTART / "train_full.yaml"
GRID = 100  # the control writes boxes as whole hundredths of the frame's width and height
ANSWER_TOKENS = 256


def text_answer(row: dict) -> str:
    """Span, then one box per second-stamp inside it: `From 1.0 to 2.0 seconds. 1.0: 10 20 30 40; 1.5: …`."""
    media, target = row["media"], row["target"]
    scale = (media["width"], media["height"]) * 2
    boxes = []
    for frame, box in zip(target["frames"], target["boxes"]):
        corners = " ".join(str(round(GRID * value / size)) for value, size in zip(box, scale))
        boxes.append(f"{frame / media['fps']:.1f}: {corners}")

    return f"{row['messages'][-1]['content']} {'; '.join(boxes)}"


def read_answer(text: str, row: dict) -> dict:
    """A prediction row from the control's text."""
    from spacevllm_plugin.data.span_parser import read_span
    from spacevllm_plugin.data.timeline import Timeline

    media = row["media"]
    scale = (media["width"], media["height"]) * 2
    span = read_span(text)
    found = {}
    for seconds, *corners in re.findall(r"(\d+\.\d+): (\d+) (\d+) (\d+) (\d+)", text):
        frame = round(float(seconds) * media["fps"])
        found[frame] = [int(corner) * size / GRID for corner, size in zip(corners, scale)]

    timeline = Timeline(media["num_frames"], media["fps"])
    return {
        "id": row["id"],
        "text": text,
        "status": "ok" if span else "unreadable",
        **({"span_seconds": span, "span_frames": timeline.span_frames(span)} if span else {}),
        **({"frames": sorted(found), "boxes": [found[frame] for frame in sorted(found)]} if found else {}),
    }


def read_jsonl(path: Path) -> list[dict]:
    """All rows of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def twice(content: str) -> str:
    """The question before the video too, as `instruction_first` has it."""
    return content.replace("<video>", "") + "\n" + content


def control_data(data: Path, source: str) -> None:
    """The training set as a plain LLaMA-Factory data set whose answers hold the boxes, the question twice as in ours."""
    rows = []
    for row in read_jsonl(data / source / "annotations.jsonl"):
        user, _ = row["messages"]
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": twice(user["content"])},
                    {"role": "assistant", "content": text_answer(row)},
                ],
                "videos": [str((data / source / video).resolve()) for video in row["videos"]],
            }
        )

    (data / "control.json").write_text(json.dumps(rows))
    info = json.loads((data / "dataset_info.json").read_text())
    info["control"] = {
        "file_name": "control.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "videos": "videos"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }
    (data / "dataset_info.json").write_text(json.dumps(info, indent=2))


def train_plain(recipe: Path, overrides: list[str]) -> None:
    """LLaMA-Factory's training as its own launcher starts it, on one rank of two."""
    from llamafactory.train.tuner import run_exp
    from omegaconf import OmegaConf

    sys.path.insert(0, str(QUICKSTART))
    from fp32_muon import use_fp32

    use_fp32()
    run_exp(OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(recipe), OmegaConf.from_dotlist(overrides))))


def plain_recipe(out: Path) -> Path:
    """The quickstart's recipe without our options."""
    import yaml

    from spacevllm_plugin.integration.options import TrainingOptions
    from spacevllm_plugin.modeling.configuration import GroundingOptions, LossOptions

    ours = {name for options in (GroundingOptions, LossOptions, TrainingOptions) for name in vars(options())}
    recipe = {name: value for name, value in yaml.safe_load(RECIPE.read_text()).items() if name not in ours}
    recipe.update(template="qwen3_vl_nothink", dataset="control", video_fps=2.0)  # LLaMA-Factory picks frames by fps
    path = out / "control.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def mend_chat(engine) -> None:
    """What LLaMA-Factory 0.9.5's chat lacks for videos of Qwen3-VL under transformers 5, on a Qwen3-VL of anybody's.

    It makes a tensor of all that the processor returns, which fails on the metadata, and passes no `mm_token_type_ids`,
    without which `generate` counts positions as in plain text, not as in training.
    """
    plugin = engine.engine.template.mm_plugin
    get_mm_inputs = plugin.get_mm_inputs

    def get_whole_mm_inputs(*args, batch_ids: list[list[int]], processor, **kwargs) -> dict:
        inputs = get_mm_inputs(*args, batch_ids=batch_ids, processor=processor, **kwargs)
        del inputs["video_metadata"]
        return {**inputs, "mm_token_type_ids": processor.create_mm_token_type_ids(batch_ids)}

    plugin.get_mm_inputs = get_whole_mm_inputs


def generate(name: str, model: Path, rows: Path, out: Path) -> None:
    """Runs in a process of its own, the control's without the plugin: LLaMA-Factory's chat engine, one video at a time."""
    from llamafactory.chat import ChatModel

    common = {"model_name_or_path": str(model), "infer_dtype": "float32", "do_sample": False}
    common["max_new_tokens"] = ANSWER_TOKENS
    if name == "spacevllm":  # the checkpoint knows its sampling
        engine, asked = ChatModel({**common, "template": "spacevllm_qwen3_vl"}), str
    else:
        limits = {"video_maxlen": 12, "video_fps": 2.0, "video_max_pixels": 2304}
        engine, asked = ChatModel({**common, **limits, "template": "qwen3_vl_nothink"}), twice
        mend_chat(engine)

    answers = []
    for i, row in enumerate(read_jsonl(rows)):
        messages = [{"role": "user", "content": asked(row["messages"][0]["content"])}]
        videos = [str(rows.parent / video) for video in row["videos"]]
        start = time.perf_counter()
        (response,) = engine.chat(messages, videos=videos)
        answers.append({"text": response.response_text, "seconds": time.perf_counter() - start, "warm_up": i < 3})

    out.write_text(json.dumps(answers))


def our_prediction(text: str, row: dict) -> dict:
    """A prediction row from the reply's JSON block."""
    (tube,) = json.loads(text.partition("```json\n")[2].partition("\n```")[0])["tubes"]
    span = {name: tube[name] for name in ("span_seconds", "span_frames") if tube[name] is not None}
    return {
        "id": row["id"],
        "text": text.partition("\n\n```json")[0],
        "status": "ok" if span else "unreadable",
        **span,
        "frames": tube["frames"],
        "boxes": tube["boxes"],
    }


def measure(name: str, model: Path, rows: Path, out: Path) -> dict:
    """Answers, scores and the median seconds per video of one model."""
    from spacevllm_plugin.data.schema import AnnotationRow, PredictionRow
    from spacevllm_plugin.evaluation import evaluate

    control = name != "spacevllm"
    answers_file = out / f"{name}.answers.json"
    subprocess.run(
        [sys.executable, __file__, "--generate", name, "--model", str(model), "--rows", str(rows), "--out", str(answers_file)],
        check=True,
        env={**os.environ, "SPACEVLLM_DISABLE": "1" if control else "0"},
    )  # fmt: skip
    answers, truth = json.loads(answers_file.read_text()), read_jsonl(rows)
    read = read_answer if control else our_prediction
    predictions = [PredictionRow.model_validate(read(answer["text"], row)) for answer, row in zip(answers, truth)]
    (out / f"{name}.predictions.jsonl").write_text(
        "".join(p.model_dump_json(exclude_none=True) + "\n" for p in predictions)
    )
    result = evaluate("stvg", [AnnotationRow.model_validate(row) for row in truth], predictions)
    seconds = sorted(answer["seconds"] for answer in answers if not answer["warm_up"])
    return {
        **result.report()["groups"]["all"],
        **result.report()["counts"],
        "seconds_per_video": seconds[len(seconds) // 2],
    }


def main() -> None:
    """Train, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/control"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--generate", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        train_plain(Path(args.plain[0]), args.plain[1:])
        return

    if args.generate:
        generate(args.generate, args.model, args.rows, args.out)
        return

    sys.path.insert(0, str(QUICKSTART))
    from quickstart import TWO_RANKS, run, spacevllm, write_data

    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    data, base = (out / name for name in ("data", "base"))
    write_data(data, args.seed)
    # LLaMA-Factory groups the timestamps of Qwen3-VL by the spatial merge size, so that it must equal the temporal one.
    spacevllm("make-tiny", "qwen3_vl", "--merge-size", "1", "--out", str(base), "--seed", str(args.seed))
    common = {"model_name_or_path": base, "dataset_dir": data, "seed": args.seed}
    models = {"spacevllm": out / "spacevllm"}
    values = [f"{name}={value}" for name, value in common.items()]
    run(
        *("llamafactory-cli", "train", str(RECIPE), *values, f"max_steps={args.steps}"),
        *(f"output_dir={models['spacevllm']}", f"frame_cache_dir={out / 'frames'}"),
        **TWO_RANKS,
    )
    control_data(data, "synth_train")
    recipe, rows = plain_recipe(out), data / "synth_heldout" / "annotations.jsonl"
    for name, factor in (("control", 1), ("control_3x", 3)):
        models[name] = out / name
        run(
            *("torchrun", "--standalone", "--nproc-per-node", "2", __file__, "--plain", str(recipe), *values),
            *(f"output_dir={models[name]}", f"max_steps={args.steps * factor}"),
            **TWO_RANKS,
            SPACEVLLM_DISABLE="1",
        )

    report = {name: measure(name, model, rows, out) for name, model in models.items()}
    report["steps"] = {"spacevllm": args.steps, "control": args.steps, "control_3x": 3 * args.steps}
    (out / "report.json").write_text(json.dumps(report, indent=2))
    print(f"\n{'':12}{'steps':>8}{'m_tIoU':>9}{'m_sIoU':>9}{'m_vIoU':>9}{'s/video':>9}")
    for name in models:
        scores = report[name]
        values = "".join(f"{scores[metric]:9.3f}" for metric in ("m_tIoU", "m_sIoU", "m_vIoU", "seconds_per_video"))
        print(f"{name:12}{report['steps'][name]:8}{values}")


if __name__ == "__main__":
    main()
