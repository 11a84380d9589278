"""The panel's fields, and what LlamaBoard makes of them; without a browser."""

import os
import subprocess
import sys
from dataclasses import fields

import pytest
import yaml

from spacevllm_plugin.backbones import registry
from spacevllm_plugin.integration.options import TrainingOptions
from spacevllm_plugin.modeling.configuration import GroundingOptions, LossOptions


OURS, STOCK = "spacevllm_qwen3_vl", "qwen3_vl_nothink"


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """The runner of LlamaBoard's page, which is built but not served."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("board"))
        from llamafactory.webui.interface import create_ui

        demo = create_ui()
        (preview,) = [fn for fn in demo.fns.values() if getattr(fn.fn, "__name__", "") == "preview_train"]
        runner = preview.fn.__self__
        runner.demo = demo
        yield runner


def page(runner, template=OURS, **changes):
    """What the page would send: LLaMA-Factory's values but for some, by the names of the elements."""
    data = {elem: getattr(elem, "value", None) for elem in runner.manager.get_elem_list()}
    changes = {
        "top.lang": "en",
        "top.model_name": "Custom",
        "top.model_path": "somewhere",
        "top.template": template,
        "train.dataset": ["a"],
        "train.output_dir": "run",
        "train.config_path": "saved.yaml",
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    return data | {runner.manager.get_elem_by_id(name): value for name, value in changes.items()}


def loaded(runner, name="saved.yaml"):
    output = runner.load_args("en", name)
    return {runner.manager.get_id_by_elem(elem): value for elem, value in output.items()}


def test_every_option_has_a_field_with_its_default_and_words_in_all_languages(runner):
    from llamafactory.webui.locales import LOCALES

    from spacevllm_plugin.integration.webui.fields import ELSEWHERE

    for holder in (GroundingOptions, LossOptions, TrainingOptions):
        for option in fields(holder):
            if option.name in ELSEWHERE:
                continue

            elem = runner.manager.get_elem_by_id(f"spacevllm.{option.name}")
            assert elem.value == option.default
            words = LOCALES[option.name]
            assert set(words) == set(LOCALES["title"])
            assert words["en"] == words["ko"] == {"label": option.name, "info": option.metadata["help"]}
            assert words["zh"]["info"] not in ("", words["en"]["info"])


def test_our_words_take_the_place_of_none_of_llamafactory_s():
    from spacevllm_plugin.integration.webui.words import CHINESE, WORDS

    code = "from llamafactory.webui.locales import LOCALES; print(*LOCALES)"

    env = {**os.environ, "SPACEVLLM_DISABLE": "1"}
    stock = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert "title" in stock.split() and not {*WORDS, *CHINESE} & set(stock.split())


def test_what_was_changed_is_in_the_arguments_and_nothing_else(runner):
    stock = runner._parse_train_args(page(runner, STOCK, spacevllm__box_l1_weight=3))
    ours = runner._parse_train_args(
        page(
            runner, spacevllm__box_l1_weight=3, spacevllm__space_decoder_lr="1e-4", spacevllm__grounding_metrics=False
        )
    )
    changed = {"box_l1_weight": 3.0, "space_decoder_lr": 1e-4, "grounding_metrics": False}
    assert ours == {**stock, **changed, "template": OURS}

    from llamafactory.webui.common import gen_cmd, save_cmd

    assert "--grounding_metrics False" in gen_cmd(ours)
    saved = yaml.safe_load(open(save_cmd(ours), encoding="utf-8"))
    assert {name: saved[name] for name in changed} == changed


def test_extra_arguments_stand(runner):
    args = runner._parse_train_args(
        page(runner, spacevllm__box_l1_weight=3, train__extra_args='{"box_l1_weight": 4.0}')
    )
    assert args["box_l1_weight"] == 4.0


def test_what_is_no_number_is_refused_in_a_line(runner):
    (said,) = runner.preview_train(page(runner, spacevllm__space_decoder_lr="fast"))
    assert list(said.values()) == ["space_decoder_lr: 'fast' is no number."]


def test_arguments_are_saved_and_loaded(runner):
    runner.save_args(page(runner, spacevllm__box_anchor="none", train__cutoff_len=2048))
    values = loaded(runner)
    assert values["spacevllm.box_anchor"] == "none" and values["train.cutoff_len"] == 2048
    # What was not saved was at its default, whatever the page says now.
    assert values["spacevllm.staq_num_queries"] == 64 and values["spacevllm.space_decoder_lr"] is None


def test_arguments_of_others_are_saved_as_without_us(runner):
    runner.save_args(page(runner, STOCK, spacevllm__box_anchor="none"))
    saved = yaml.safe_load(open("llamaboard_config/saved.yaml", encoding="utf-8"))
    assert not [name for name in saved if "spacevllm" in name]


def test_what_fits_our_models(monkeypatch):
    from spacevllm_plugin.integration.webui import presets as module

    monkeypatch.setattr(module, "is_accelerator_available", lambda: False)
    assert module.presets(STOCK, 128, "256*256") == {}
    assert module.presets(OURS, 128, "256*256") == {"cutoff_len": 8192, "compute_type": "fp32"}
    assert module.presets("spacevllm", 64, "256*256")["cutoff_len"] == 16384
    thinking = registry.get("qwen3_5").template
    monkeypatch.setattr(module, "is_accelerator_available", lambda: True)
    assert module.presets(thinking, 128, "256*256") == {"cutoff_len": 8192, "enable_thinking": False}
    assert module.presets(OURS, None, "256*") == {}


def test_fields_follow_the_template_but_not_the_user(runner):
    """The page's own function, fed with what it gave before."""
    from spacevllm_plugin.integration.webui import panel

    manager = runner.manager
    memory = manager.get_elem_by_id("spacevllm.spacevllm_memory")
    template = manager.get_elem_by_id("top.template")
    (update,) = [
        fn.fn for fn in runner.demo.fns.values() if memory in fn.outputs and (template._id, "change") in fn.targets
    ]
    assert panel.FIELDS == ("cutoff_len", "compute_type", "enable_thinking")

    def choose(template, memory, *values):
        memory, *updates = update(memory, template, 128, "256*256", *values)
        return memory, *(change.get("value", value) for change, value in zip(updates, values))

    start = ("", 2048, "bf16", True)
    ours = choose(OURS, *start)
    assert ours[1:2] == (8192,)
    assert choose(STOCK, *ours)[1:] == start[1:]
    assert choose("spacevllm", *ours)[1] == 32768
    by_hand = (ours[0], 2048, *ours[2:])  # LLaMA-Factory's value, but the user's choice
    twice = choose(OURS, *choose(OURS, *by_hand))
    assert twice[1] == 2048
