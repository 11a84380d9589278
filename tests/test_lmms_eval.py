"""The adapter under lmms-eval's own registry, base class and requests."""

import json
import os
from importlib.metadata import EntryPoint

import pytest
import torch
from conftest import write_image, write_video

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
def adapter(tiny_base):
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    point = EntryPoint("spacevllm", "spacevllm_plugin.inference.lmms_eval:manifest", "lmms_eval.models")
    for manifest in registry._coerce_payload_to_manifests(point.load()):
        registry.register_manifest(manifest)

    torch.manual_seed(0)  # the fresh heads'
    model = registry.get_model_class("spacevllm").create_from_arg_string(
        f"pretrained={tiny_base('qwen3_vl')},infer_dtype=float32,video_maxlen=6",
        {"batch_size": 2, "max_batch_size": None, "device": None},
    )
    model.task_dict = {TASK: {SPLIT: ["video", "broken", "text", "image"]}}
    return model


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


def test_answers_are_those_of_predict(adapter, media, tiny_base, tmp_path):
    answers = adapter.generate_until(requests(media))
    kinds = ("video", "broken", "text", "image")
    rows = []
    for i, kind in enumerate(kinds):
        column = {"videos": media[kind]} if kind in ("video", "broken") else {"images": media[kind]}
        tag = {"video": "<video>", "broken": "<video>", "image": "<image>"}.get(kind, "")
        row = {"id": kind, "task": "qa", "messages": [{"role": "user", "content": f"{tag}What is number {i}?"}]}
        rows.append({**row, **(column if media[kind] else {})})

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    torch.manual_seed(0)
    code = main(
        [
            *("predict", "--model", str(tiny_base("qwen3_vl")), "--data", str(tmp_path / "rows.jsonl")),
            *("--out", str(tmp_path / "p.jsonl"), "--batch-size", "1", "--max-new-tokens", "4"),
            *("--arg", "infer_dtype=float32", "--arg", "video_maxlen=6"),
        ]
    )
    assert code == 0
    texts = {p.id: p.text for p in read_rows(tmp_path / "p.jsonl", PredictionRow)}
    assert answers == [texts[kind].strip() for kind in kinds]
    assert answers[1] == "" and answers[0]


def test_what_it_does_not_do_is_said(adapter, tiny_base, monkeypatch):
    for ask in (adapter.loglikelihood, adapter.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="spacevllm"):
            ask([])

    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process"):
        type(adapter)(str(tiny_base("qwen3_vl")))
