"""The adapter under lmms-eval: its registry, base class and requests, and its command on its own tasks."""

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from conftest import write_image, write_video
from lmms_hub import TASKS, judge, write_hub

from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.schema import PredictionRow, read_rows


pytest.importorskip("lmms_eval", reason="extra `lmms-eval`")

TASK, SPLIT = "videomme", "test"
OPTIONS = {"max_new_tokens": 4, "until": ["\n\n"]}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lmms")
    return {
        "video": [write_video(folder / "v.mp4", 12, fps=2)],
        "image": [write_image(folder / "i.png", 3)],
        "broken": [str(folder / "nowhere.mp4")],
        "text": None,
    }


@pytest.fixture(scope="module")
def model(make_engine, tmp_path_factory):
    """An export, so that every run has the same queries."""
    engine, folder = make_engine("qwen3_vl"), tmp_path_factory.mktemp("model")
    engine.model.save_pretrained(folder)
    engine.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(model):
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    point = EntryPoint("spacevllm", "spacevllm_plugin.lmms_eval:manifest", "lmms_eval.models")
    for manifest in registry._coerce_payload_to_manifests(point.load()):
        registry.register_manifest(manifest)

    adapter = registry.get_model_class("spacevllm").create_from_arg_string(
        f"pretrained={model},infer_dtype=float32,video_maxlen=6",
        {"batch_size": 2, "max_batch_size": None, "device": None},
    )
    adapter.task_dict = {TASK: {SPLIT: ["video", "broken", "text", "image"]}}
    return adapter


def requests(media):
    from lmms_eval.api.instance import Instance
    from PIL import Image

    def to_visual(doc):
        return [Image.open(media[doc][0])] if doc == "image" else media[doc]

    return [
        Instance(
            request_type="generate_until",
            arguments=(f"<image>What is number {i}?", OPTIONS, to_visual, i, TASK, SPLIT),
            idx=0,
            metadata={"task": TASK, "doc_id": i, "repeats": 1},
        )
        for i in range(4)
    ]


def predicted(model, rows, folder):
    """What `predict` answers: id -> text."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = main(
        [
            *("predict", "--model", str(model), "--data", str(folder / "rows.jsonl")),
            *("--out", str(folder / "p.jsonl"), "--batch-size", "1", "--max-new-tokens", "4"),
            *("--arg", "infer_dtype=float32", "--arg", "video_maxlen=6"),
        ]
    )
    assert code == 0
    return {p.id: p.text.strip() for p in read_rows(folder / "p.jsonl", PredictionRow)}


def test_answers_are_those_of_predict(adapter, media, model, tmp_path):
    answers = adapter.generate_until(requests(media))
    kinds = ("video", "broken", "text", "image")
    rows = []
    for i, kind in enumerate(kinds):
        column = {"videos": media[kind]} if kind in ("video", "broken") else {"images": media[kind]}
        tag = {"video": "<video>", "broken": "<video>", "image": "<image>"}.get(kind, "")
        row = {"id": kind, "task": "qa", "messages": [{"role": "user", "content": f"{tag}What is number {i}?"}]}
        rows.append({**row, **(column if media[kind] else {})})

    texts = predicted(model, rows, tmp_path)
    assert answers == [texts[kind] for kind in kinds]
    assert answers[1] == "" and answers[0]


def test_what_it_does_not_do_is_said(adapter, model, monkeypatch):
    for ask in (adapter.loglikelihood, adapter.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="spacevllm"):
            ask([])

    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process"):
        type(adapter)(str(model))


LOCAL_TASK = """
task: local_clips
dataset_path: json
dataset_kwargs: {data_files: {test: clips.jsonl}}
test_split: test
output_type: generate_until
doc_to_visual: !function functions.visual
doc_to_text: question
doc_to_target: answer
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def test_the_command_runs_the_four_benchmarks_and_a_local_task(model, tmp_path):
    videos = write_hub(tmp_path)
    videos["local_clips"] = videos["egoschema_subset"]
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "local_clips.yaml").write_text(LOCAL_TASK)
    (tasks / "functions.py").write_text("def visual(doc):\n    return [doc['video']]\n")
    clip = {"video": videos["local_clips"][0], "question": "What is it?\nA. red\nB. blue", "answer": "B"}
    (tmp_path / "clips.jsonl").write_text(json.dumps(clip) + "\n")

    with judge() as url:
        offline = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OPENAI_API_URL": url}
        result = subprocess.run(
            [
                *(sys.executable, "-m", "lmms_eval", "--model", "spacevllm", "--include_path", str(tasks)),
                *("--model_args", f"pretrained={model},infer_dtype=float32,video_maxlen=6"),
                *("--tasks", ",".join([*TASKS, "local_clips"]), "--gen_kwargs", "max_new_tokens=4"),
                *("--batch_size", "1", "--output_path", str(tmp_path / "out"), "--log_samples"),
            ],
            cwd=tmp_path,
            env={**os.environ, **offline, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )

    assert result.returncode == 0, result.stderr[-4000:]
    answers, rows = {}, []
    for task, files in videos.items():
        (path,) = (tmp_path / "out").rglob(f"*_samples_{task}.jsonl")
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        assert [sample["doc_id"] for sample in samples] == list(range(len(files)))
        for sample, file in zip(samples, files):
            answers[file, sample["input"]] = sample["filtered_resps"]
            row = {"id": str(len(rows)), "task": "qa", "videos": [file]}
            rows.append({**row, "messages": [{"role": "user", "content": "<video>" + sample["input"]}]})

    texts = predicted(model, rows, tmp_path)
    assert list(answers.values()) == [texts[row["id"]] for row in rows]
    empty = [file for (file, _), answer in answers.items() if not answer]
    assert empty == [videos["mvbench_state_change"][1]]
    assert f"no answer: {empty[0]}" in result.stderr and "1 of 8 answers are empty" in result.stderr

    (path,) = (tmp_path / "out").rglob("*_results.json")
    scores = json.loads(path.read_text())["results"]
    assert set(videos) == set(scores)
    # The judge has the last word on what is no letter, and finds it wrong.
    assert scores["tempcompass_multi_choice"]["action_accuracy,none"] == 0
    assert scores["tempcompass_yes_no"]["order_accuracy,none"] == 0
    assert "videomme_perception_score,none" in scores["videomme"] and "score,none" in scores["egoschema_subset"]
    assert "mvbench_accuracy,none" in scores["mvbench_action_sequence"]
