"""LlamaBoard knows our models, templates and data sets, and its own page functions train one of ours."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from gradio_client import Client

from spacevllm_plugin.backbones import registry
from spacevllm_plugin.backbones.tiny import make_tiny
from spacevllm_plugin.data.synthetic import SynthConfig, write_set


MODEL = "SpaceVLLM-Qwen3-VL-2B"


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """LlamaBoard served from a folder of its own, where it keeps its `saves/` and its configuration."""
    folder = tmp_path_factory.mktemp("board")
    make_tiny("qwen3_vl", folder / "base")
    write_set(folder / "data", SynthConfig(num_videos=4, seed=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        # LlamaBoard starts `llamafactory-cli` by its bare name.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        from llamafactory.webui.interface import create_ui

        # Gradio 5.23 makes its locks in this thread's event loop, which `asyncio.run` of another test takes away.
        asyncio.set_event_loop(asyncio.new_event_loop())
        demo = create_ui()
        _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", inbrowser=False)
        yield folder, demo, Client(url, verbose=False)
        demo.close()


def component(demo, label_part: str, choices_part: str):
    """A dropdown of the page that offers a certain choice."""
    for block in demo.blocks.values():
        choices = getattr(block, "choices", None) or []
        if any(choices_part == choice[0] for choice in choices):
            return block

    raise AssertionError(f"no {label_part} offers {choices_part}")


def test_models_and_templates_are_listed(board):
    _, demo, _ = board
    models = [choice[0] for choice in component(demo, "model list", MODEL).choices]
    for spec in registry.usable():
        assert set(spec.hub_ids) <= set(models)
        assert spec.template in [choice[0] for choice in component(demo, "template list", spec.template).choices]


def test_choosing_a_model_chooses_its_template(board):
    from llamafactory.webui.common import get_template, is_multimodal

    for spec in registry.usable():
        for name in spec.hub_ids:
            assert get_template(name) == spec.template and is_multimodal(name)


def endpoint(demo, name: str):
    """A page function by name, with the components that it takes, in the order that the client sends them."""
    (function,) = [fn for fn in demo.fns.values() if getattr(fn.fn, "__name__", "") == name]
    return function


def test_training_through_the_page_ends_with_an_adapter_it_offers(board):
    folder, demo, client = board
    from llamafactory.webui.common import load_dataset_info

    assert "synth_train" in load_dataset_info(str(folder / "data"))
    function = endpoint(demo, "run_train")
    chosen = {
        "top.model_name": MODEL,
        "top.model_path": str(folder / "base"),
        "top.template": "spacevllm_qwen3_vl",
        "top.finetuning_type": "lora",
        "top.lang": "en",
        "train.dataset_dir": str(folder / "data"),
        "train.dataset": ["synth_train"],
        "train.output_dir": "from_the_page",
        "train.num_train_epochs": "1",
        "train.compute_type": "fp32",
        "train.batch_size": 4,
        "train.save_steps": 100,
        "train.logging_steps": 1,
        "train.video_max_pixels": "48*48",
        "train.extra_args": json.dumps(
            {"optim": "adamw_torch", "video_maxlen": 6, "preprocessing_num_workers": 1, "use_cpu": True}
        ),
    }
    manager = function.fn.__self__.manager
    values = []
    for block in function.inputs:
        name = manager.get_id_by_elem(block)
        values.append(chosen.get(name, getattr(block, "value", None)))

    job = client.submit(*values, fn_index=function._id)
    job.result(timeout=240)
    adapter = folder / "saves" / MODEL / "lora" / "from_the_page"
    assert (adapter / "adapter_model.safetensors").is_file(), Path(adapter, "running_log.txt").read_text()[-3000:]
    assert (adapter / "spacevllm_config.json").is_file()

    from llamafactory.webui.control import list_checkpoints

    offered = [choice for choice, *_ in list_checkpoints(MODEL, "lora").choices]
    assert "from_the_page" in offered
