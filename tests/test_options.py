"""Options from the command line or a recipe to the model: what was given, what a checkpoint recorded, who carries them."""

import json
import pickle

import pytest

from spacevllm_plugin.data.plan import Preprocessing
from spacevllm_plugin.modeling.configuration import GroundingOptions


@pytest.fixture
def checkpoint(tiny_base, tmp_path):
    """A tiny base whose config says what a trained checkpoint's says."""
    for file in tiny_base("qwen3_vl").iterdir():
        (tmp_path / file.name).symlink_to(file)

    config = json.loads((tmp_path / "config.json").read_text())
    config["grounding"] = {**GroundingOptions().as_dict(), "staq_num_queries": 8, "frame_sampling": "fps"}
    config["preprocessing"] = {**vars(Preprocessing()), "video_maxlen": 6}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def load(checkpoint, as_command, **given):
    """LLaMA-Factory's arguments and processor, from a recipe's options or from a command line."""
    from llamafactory.hparams import get_infer_args
    from llamafactory.model import load_tokenizer

    recipe = {"model_name_or_path": checkpoint, "template": "spacevllm_qwen3_vl", **given}
    command = [word for name, value in recipe.items() for word in (f"--{name}", str(value))]
    model_args, *_ = get_infer_args(command if as_command else recipe)
    return model_args, load_tokenizer(model_args)


@pytest.mark.parametrize("as_command", (False, True), ids=("recipe", "command"))
def test_an_option_given_at_its_default_is_kept(checkpoint, as_command):
    from spacevllm_plugin.integration.options import RunOptions

    given = {"video_maxlen": Preprocessing().video_maxlen}
    options = RunOptions.on(load(checkpoint, as_command, **given)[1]["processor"])
    assert options.preprocessing.video_maxlen == given["video_maxlen"]
    assert options.grounding.frame_sampling == "fps" and options.grounding.staq_num_queries == 8

    options = RunOptions.on(load(checkpoint, as_command)[1]["processor"])
    assert options.preprocessing.video_maxlen == 6


@pytest.mark.parametrize("as_command", (False, True), ids=("recipe", "command"))
def test_an_architecture_given_at_its_default_is_refused_where_the_weights_have_another(checkpoint, as_command):
    with pytest.raises(ValueError, match="`staq_num_queries: 64` does not fit this checkpoint, .* trained with 8"):
        load(checkpoint, as_command, staq_num_queries=GroundingOptions().staq_num_queries)


def test_flags_and_abbreviations_on_a_command_line_count_as_given():
    from llamafactory.hparams.parser import _INFER_ARGS
    from transformers import HfArgumentParser

    from spacevllm_plugin.integration.arguments import names_given

    parser = HfArgumentParser(_INFER_ARGS)
    words = [
        "--presence_head",
        "--video_fps=2.0",
        "--instruction_f",
        "true",
        "--no_grounding_metrics",
        "--unknown",
        "1",
    ]
    assert set(names_given(parser, words)) == {"presence_head", "video_fps", "instruction_first", "grounding_metrics"}
    assert names_given(parser, []) == []


def test_one_object_carries_them(checkpoint):
    from spacevllm_plugin.integration.options import RunOptions

    model_args, loaded = load(checkpoint, False)
    ours = [name for name in vars(loaded["processor"]) if "spacevllm" in name]
    assert len(ours) == 1 and isinstance(vars(loaded["processor"])[ours[0]], RunOptions)
    assert not [name for holder in (loaded["tokenizer"], model_args) for name in vars(holder) if "spacevllm" in name]


def test_all_processes_of_a_run_have_the_same_beginning(checkpoint, tmp_path):
    """Workers that come later, each epoch new ones, must not take what the run has cached for another run's."""
    from spacevllm_plugin.integration.options import RunOptions

    options = RunOptions.on(load(checkpoint, False, frame_cache_dir=str(tmp_path / "frames"))[1]["processor"])
    assert pickle.loads(pickle.dumps(options)).frame_cache.since == options.frame_cache.since
