"""Every recipe under examples/ is one that LLaMA-Factory takes, fits its model, and explains itself."""

import json
import re
from pathlib import Path

import pytest
import yaml
from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.hparams import parser as hparams_parser
from omegaconf import OmegaConf

from spacevllm_plugin.backbones import registry
from spacevllm_plugin.data.schema import TASKS, read_rows
from spacevllm_plugin.data.video import VideoRef, probe


ROOT = Path(__file__).parents[1]
EXAMPLES, DATA_INFO = ROOT / "examples", ROOT / "data_info"
FSDP_CONFIGS = sorted(EXAMPLES.glob("accelerate/*.yaml"))
ZERO_CONFIGS = sorted(EXAMPLES.glob("deepspeed/*.json"))
MIXTURES = sorted(EXAMPLES.glob("unistg/*.yaml"))
RECIPES = sorted(path for path in EXAMPLES.rglob("*.yaml") if path not in FSDP_CONFIGS + MIXTURES)
TRAINING = [path for path in RECIPES if "do_train:" in path.read_text(encoding="utf-8")]
TEMPLATES = {spec.template: spec for spec in registry.specs()}
HUB_IDS = {hub_id: spec.template for spec in registry.specs() for hub_id in spec.hub_ids.values()}


def name(path):
    return str(path.relative_to(EXAMPLES))


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=name)


def load(path):
    """As LLaMA-Factory reads it; a key given twice is an error."""
    return OmegaConf.to_container(OmegaConf.load(path))


def parse(path, monkeypatch, tmp_path):
    """The recipe through LLaMA-Factory's own parser and all its checks, in the repository's root."""
    monkeypatch.chdir(ROOT)
    recipe = load(path)
    if path not in TRAINING:
        return get_infer_args(recipe)

    # Facts of this machine, not of the recipe: it may have no GPU, no bfloat16 and no DeepSpeed (whose JSON files have
    # a test of their own), and `output_dir` may hold somebody's checkpoint.
    monkeypatch.setattr(hparams_parser, "is_torch_bf16_gpu_available", lambda: True)
    recipe.pop("deepspeed", None)
    return get_train_args({**recipe, "use_cpu": True, "output_dir": str(tmp_path)})


def named_sets(value):
    return [part.strip() for part in value.split(",")] if value else []


def test_all_kinds_of_recipes_are_found():
    folders = {path.parent.name for path in RECIPES}
    kinds = {"train_lora", "train_full", "train_freeze", "train_qlora", "merge_lora", "inference"}
    assert kinds <= folders
    for kind in kinds - {"train_freeze"}:
        templates = {load(path)["template"] for path in RECIPES if path.parent.name == kind}
        assert templates == set(TEMPLATES), kind


@each(RECIPES)
def test_llamafactory_takes_it(path, monkeypatch, tmp_path):
    model_args, data_args, *_ = parse(path, monkeypatch, tmp_path)
    recipe = load(path)
    assert data_args.template in TEMPLATES
    if path in TRAINING:
        assert model_args.video_maxlen == recipe.get("video_maxlen", 128)
        assert not Path(recipe["output_dir"]).is_absolute()


def test_unknown_keys_are_refused(tmp_path):
    recipe = {**load(TRAINING[0]), "use_cpu": True, "output_dir": str(tmp_path), "staq_queries": 64}
    with pytest.raises(ValueError, match="staq_queries"):
        get_train_args(recipe)


@each(RECIPES)
def test_template_fits_the_model(path):
    recipe = load(path)
    model = recipe["model_name_or_path"]
    if model in HUB_IDS:
        assert recipe["template"] == HUB_IDS[model]
    else:
        assert model.split("/")[0] in ("saves", "outputs"), f"{model} is neither a known base nor a run's output"


@each(RECIPES + FSDP_CONFIGS)
def test_every_key_has_a_comment(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            assert re.fullmatch(r" *\w+:( \S.*?)? +# \S.*", line), f"line {number} has no comment: {line}"


@each(RECIPES + FSDP_CONFIGS + MIXTURES)
def test_commands_in_the_header_name_the_file_itself(path):
    header = path.read_text(encoding="utf-8").partition("###")[0]
    for mentioned in re.findall(r"examples/\S+\.(?:yaml|json)", header):
        assert (ROOT / mentioned).is_file()

    if path in RECIPES:
        assert f"examples/{name(path)}" in header


@each(TRAINING)
def test_data_sets_are_registered(path):
    text, recipe = path.read_text(encoding="utf-8"), load(path)
    if recipe["dataset_dir"] != "data_info":
        assert recipe["dataset_dir"].startswith("outputs/")  # written by the quickstart
        return

    registered = json.loads((DATA_INFO / "dataset_info.json").read_text(encoding="utf-8"))
    used = named_sets(recipe["dataset"]) + named_sets(recipe.get("eval_dataset"))
    assert used and all((DATA_INFO / registered[key]["file_name"]).is_file() for key in used), "does not run at once"
    suggested = [key for line in re.findall(r"^# dataset: (.*)", text, re.MULTILINE) for key in named_sets(line)]
    suggested += re.findall(r"real ones: (\w+), (\w+)", text)[0]
    assert set(suggested) <= set(registered)


@each([path for path in TRAINING if path.parent.name != "quickstart"])
def test_longest_video_fits_cutoff_len(path):
    recipe = load(path)
    spec = TEMPLATES[recipe["template"]]
    queries = recipe["video_maxlen"] // spec.temporal_patch_size
    assert recipe.get("frame_tokens", "onevision") == "onevision"
    needed = spec.prompt_tokens(recipe["video_maxlen"], recipe.get("video_max_pixels", 0))
    assert queries == recipe["staq_num_queries"] == 64
    assert needed <= recipe["cutoff_len"] < 2 * needed
    (stated,) = re.findall(r"some ([\d,]+)\.", path.read_text(encoding="utf-8"))
    assert abs(int(stated.replace(",", "")) - needed) <= 100, "the arithmetic in the comment is another"


@each([path for path in TRAINING if "deepspeed" in load(path)])
def test_zero_stage_is_what_the_name_says(path):
    recipe = load(path)
    config = json.loads((ROOT / recipe["deepspeed"]).read_text(encoding="utf-8"))
    assert path.stem.endswith(f"ds{config['zero_optimization']['stage']}")
    # Ranks of a sharded model would have to generate in step, so it is not grounded while it trains.
    assert recipe["grounding_metrics"] == (config["zero_optimization"]["stage"] < 3)


@each(ZERO_CONFIGS)
def test_deepspeed_config(path):
    config = json.loads(path.read_text(encoding="utf-8"))
    assert config["zero_optimization"]["stage"] == int(path.name[len("ds_z")])
    # The recipe decides these.
    for key in (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    ):
        assert config[key] == "auto"

    assert config["bf16"]["enabled"] == "auto"


@each(FSDP_CONFIGS)
def test_fsdp_config(path):
    from accelerate.commands.config.config_args import ClusterConfig

    config = ClusterConfig.from_yaml_file(str(path))  # refuses unknown keys
    assert config.distributed_type == "FSDP" and config.mixed_precision == "bf16"
    assert config.fsdp_config["fsdp_use_orig_params"] is True
    assert (config.num_machines > 1) == ("multiple_nodes" in path.name)


@each([path for path in RECIPES if path.parent.name in ("merge_lora", "inference")])
def test_steps_follow_one_another(path):
    """What is merged has been trained, and what is asked has been merged, under the same names."""
    recipe, trained, merged = load(path), {}, {}
    for other in RECIPES:
        values = load(other)
        if other.parent.name == "train_lora":
            trained[values["output_dir"]] = values
        elif other.parent.name == "merge_lora":
            merged[values["export_dir"]] = values

    if "adapter_name_or_path" in recipe:
        earlier = trained[recipe["adapter_name_or_path"]]
        assert recipe["model_name_or_path"] == earlier["model_name_or_path"]
    else:
        earlier = merged[recipe["model_name_or_path"]]

    assert recipe["template"] == earlier["template"]


def test_readme_has_a_command_for_every_recipe():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    mentioned = set(re.findall(r"examples/(\S+?\.(?:yaml|json))\b", text))
    assert all((EXAMPLES / path).is_file() for path in mentioned)
    assert {name(path) for path in RECIPES if path.parent.name != "quickstart"} <= mentioned


def test_registered_sets_are_ours_and_well_formed():
    registered = json.loads((DATA_INFO / "dataset_info.json").read_text(encoding="utf-8"))
    files = [entry["file_name"] for entry in registered.values()]
    assert len(set(files)) == len(files)
    assert all(entry["formatting"] == "spacevllm" for entry in registered.values())
    readme = (DATA_INFO / "README.md").read_text(encoding="utf-8")
    for key in registered:
        assert f"`{key}`" in readme or f"`_{key.rsplit('_', 1)[1]}`" in readme or "_plus_" in key, key


@pytest.mark.parametrize("key", ["spacevllm_demo", "spacevllm_demo_heldout"])
def test_samples_open_from_dataset_dir(key):
    rows = list(read_rows(DATA_INFO / key / "annotations.jsonl"))
    assert {row.task for row in rows} == (set(TASKS) if key == "spacevllm_demo" else {"stvg"})
    for row in rows:
        for image in row.images or []:
            assert (DATA_INFO / image).is_file()

        for video in row.videos or []:
            info = probe(VideoRef(path=str(DATA_INFO / video)))
            assert (info.width, info.height) == (row.media.width, row.media.height)
            assert info.timeline.num_frames == row.media.num_frames

    assert sum(file.stat().st_size for file in (DATA_INFO / key).rglob("*")) < 200_000


def test_row_in_the_data_readme_is_valid(tmp_path):
    text = (DATA_INFO / "README.md").read_text(encoding="utf-8")
    row = next(block for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if '"id"' in block)
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(yaml.safe_load(row)) + "\n", encoding="utf-8")
    (read,) = read_rows(file)
    assert read.task == "stvg" and read.media.frame_range == (0, 500)
