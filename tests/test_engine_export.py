"""An export for engines: the stock classes of transformers, with our sidecar, give the boxes and texts that our own do."""

import json

import pytest
import torch
from conftest import BACKBONES, collate, prompt, run
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file
from stock_engine import StockEngine

from spacevllm_plugin.backbones import registry
from spacevllm_plugin.cli.main import main
from spacevllm_plugin.data.video import MediaError
from spacevllm_plugin.inference.grounding import greedy_options
from spacevllm_plugin.integration.engine_loader import load_engine
from spacevllm_plugin.modeling.grounding_model import HEAD_MODULES
from spacevllm_plugin.serving.description import SIDECAR, EngineExport
from spacevllm_plugin.serving.export import ExportError, write_export
from spacevllm_plugin.serving.prompt import make_prompt, read_media
from spacevllm_plugin.serving.sidecar import Sidecar, States


ALLOWED = [name for name in BACKBONES if registry.get(name).not_for_engines is None]
SAME = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module")
def exported(make_engine, tmp_path_factory):
    """`exported(backbone, **arguments)`: our engine, the export's folder, the stock engine and the sidecar."""
    done = {}

    def export(backbone, **arguments):
        key = (backbone, *sorted(arguments.items()))
        if key not in done:
            engine = make_engine(backbone, **arguments)
            folder = tmp_path_factory.mktemp(f"export_{backbone}")
            described = write_export(engine, folder)
            assert EngineExport.read(folder) == described
            sidecar = Sidecar(load_engine(str(folder / SIDECAR), infer_dtype="float32"), described)
            done[key] = (engine, folder, StockEngine(folder), sidecar)

        return done[key]

    return export


def asked(stock, written):
    """What an engine does with a prompt of ours."""
    return stock.inputs(written.token_ids, [(picture.embeds, picture.grid) for picture in written.pictures])


@pytest.mark.parametrize("backbone", ALLOWED)
def test_boxes_of_the_stock_class_are_ours(exported, prompts, backbone):
    engine, _, stock, sidecar = exported(backbone, presence_head=True)
    for name, item in prompts(engine).items():
        expected = run(engine, collate(engine, [item]))
        written = sidecar.prompt(item)
        layers, raw = stock.states(asked(stock, written))
        if name == "text":
            assert written.pictures == [] and sidecar.decode(written, States(layers[-1], normed=True)) is None
            continue

        # As SGLang tells them, and as vLLM does.
        earlier = layers[sidecar.export.presence_layer]
        for states in (States(layers[-1], True, earlier), States(raw, False, earlier)):
            found = sidecar.decode(written, states)
            assert torch.allclose(found.boxes, expected.boxes, **SAME)
            assert torch.allclose(found.presence, expected.presence, **SAME)

        # The boxes hang on the states: those of the tokens one further give others.
        wrong = sidecar.decode(written, States(layers[-1].roll(1, 0), True, earlier))
        assert not torch.allclose(wrong.boxes, expected.boxes, **SAME)


@pytest.mark.parametrize("backbone", [name for name in ALLOWED if registry.get(name).mrope])
def test_so_are_those_of_the_stock_class_with_its_own_tower_and_positions(exported, prompts, backbone):
    """Nothing replaced: token ids, pixels and grids of a video, and what tells a video's tokens from an image's."""
    engine, _, stock, sidecar = exported(backbone, presence_head=True)
    for name in ("video", "image", "mixed", "turns"):
        item = prompts(engine)[name]
        media = read_media(engine, item)
        written = make_prompt(engine, sidecar.export, item, media)
        stock.model.model.__dict__.pop("get_image_features", None)
        ours, theirs = torch.tensor([item.token_ids]), torch.tensor([written.token_ids])
        ids = torch.where(written.is_visual, ours, theirs)
        config = engine.model.config
        types = (ids == config.image_token_id) + 2 * (ids == config.video_token_id)
        visual = {key: value for key, value in media.items() if key != "staq_layout"}
        layers, _ = stock.states({"input_ids": ids, "mm_token_type_ids": types, **visual})
        found = sidecar.decode(written, States(layers[-1], True, layers[sidecar.export.presence_layer]))
        assert torch.allclose(found.boxes, run(engine, collate(engine, [item])).boxes, **SAME)


@pytest.mark.parametrize("backbone", ALLOWED)
def test_greedy_texts_are_ours_though_the_queries_are_in_the_vocabulary(exported, prompts, backbone):
    engine, _, stock, sidecar = exported(backbone, presence_head=True)
    assert engine.model.lm_head.weight is engine.model.get_input_embeddings().weight  # tied: the hard case
    assert not stock.model.lm_head.weight[sidecar.export.queries.all].any()
    # The tiny models' padding has random weights, so that they say tokens that no text has: where the queries are now.
    unused = [token for token in sidecar.export.suppressed if token < len(engine.model.lm_head.weight)]
    options = {**greedy_options(engine.processor.tokenizer, 6), "suppress_tokens": unused}
    for item in (prompts(engine)[name] for name in ("video", "text", "turns")):
        inputs = collate(engine, [item])
        ours = engine.model.generate(**inputs, **options)[0, len(item.token_ids) :].tolist()
        written = sidecar.prompt(item)
        assert stock.generate(asked(stock, written), sidecar.export.suppressed, 6) == ours


@pytest.mark.parametrize("backbone", ALLOWED)
def test_what_the_engine_reads_is_a_plain_checkpoint(exported, backbone):
    engine, folder, stock, sidecar = exported(backbone, presence_head=True)
    assert stock.model.config.model_type == backbone
    assert not any("staq" in key or key in ("grounding", "preprocessing") for key in stock.model.config.to_dict())
    queries = sidecar.export.queries
    assert len({*queries.all}) == 65 + len(queries.crowded) and not set(queries.all) & set(
        engine.processor.tokenizer.get_vocab().values()
    )
    tokens = [f"<|staq_{i}|>" for i in range(64)]
    assert stock.tokenizer.encode("".join(tokens), add_special_tokens=False) == queries.frames
    # The sidecar has the tower and the heads, and no vocabulary.
    ours = sidecar.engine.model
    assert len(ours.model.language_model.layers) == 0 and ours.get_input_embeddings().weight.shape[0] == 1


def test_experts_lie_in_the_file_as_on_the_hub(exported):
    """Where engines look for them: transposed, which nothing but the shape would tell."""
    engine, folder, _, _ = exported("qwen3_vl_moe", presence_head=True)
    ours = engine.model.state_dict()
    (file,) = folder.glob("*.safetensors")
    with safe_open(file, "pt") as weights:
        names = [name for name in weights.keys() if "experts" in name]  # noqa: SIM118
        assert len(names) == 8 and not any("staq" in name or "space_decoder" in name for name in weights.keys())  # noqa: SIM118
        for name in names:
            assert torch.equal(weights.get_tensor(name), ours[name].transpose(1, 2))


def test_qwen2_5_vl_is_refused(make_engine, tmp_path):
    with pytest.raises(ExportError, match="real seconds") as error:
        write_export(make_engine("qwen2_5_vl"), tmp_path)

    assert "\n" not in str(error.value) and not any(tmp_path.iterdir())


def test_more_frames_than_queries_have_tokens_at_the_limit_alone(exported, media):
    """Interpolated queries cannot be looked up: those of the longest video are written out, others are refused."""
    engine, _, stock, sidecar = exported("llava_onevision", staq_num_queries=2, video_maxlen=5)
    assert len(sidecar.export.queries.crowded) == 5
    item = prompt(engine, "<video>Where?", videos=[media["five"]])
    written = sidecar.prompt(item)
    layers, _ = stock.states(asked(stock, written))
    found = sidecar.decode(written, States(layers[-1], True))
    assert torch.allclose(found.boxes, run(engine, collate(engine, [item])).boxes, **SAME)
    with pytest.raises(MediaError, match="takes 3 queries, and this export has tokens for up to 2, or 5"):
        sidecar.prompt(prompt(engine, "<video>Where?", videos=[media["frames"]]))


def test_without_what_the_presence_head_reads_there_are_boxes_all_the_same(exported, prompts):
    engine, folder, stock, sidecar = exported("qwen3_vl", presence_head=True)
    quiet = Sidecar(load_engine(str(folder / SIDECAR), infer_dtype="float32"), sidecar.export, presence=False)
    written = quiet.prompt(prompts(engine)["video"])
    layers, _ = stock.states(asked(stock, written))
    found = quiet.decode(written, States(layers[-1], True))
    expected = sidecar.decode(written, States(layers[-1], True, layers[3]))
    assert found.presence is None and torch.equal(found.boxes, expected.boxes)


def test_an_adapter_is_merged_and_the_weights_keep_their_type(tiny_base, prompts, tmp_path):
    base, adapter, out = str(tiny_base("qwen3_vl")), str(tmp_path / "adapter"), tmp_path / "out"
    plain = load_engine(base, infer_dtype="float32")
    targets = ["q_proj", "v_proj"]
    tuned = get_peft_model(plain.model, LoraConfig(target_modules=targets, modules_to_save=list(HEAD_MODULES)))
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.05

    tuned.save_pretrained(adapter)
    arguments = ["--model", base, "--adapter", adapter, "--out", str(out), "--for-engine"]
    assert main(["export", *arguments, "--arg", "infer_dtype=float32"]) == 0
    whole, stock = load_engine(base, adapter, infer_dtype="float32"), StockEngine(out)
    sidecar = Sidecar(load_engine(str(out / SIDECAR), infer_dtype="float32"), EngineExport.read(out))
    item = prompts(whole)["mixed"]
    written = sidecar.prompt(item)
    layers, _ = stock.states(asked(stock, written))
    boxes = run(whole, collate(whole, [item])).boxes
    assert torch.allclose(sidecar.decode(written, States(layers[-1], True)).boxes, boxes, **SAME)
    half = tmp_path / "half"
    half.mkdir()
    whole.model.to(torch.bfloat16)
    write_export(whole, half)
    for folder in (half, half / SIDECAR):
        (file,) = folder.glob("*.safetensors")
        assert {value.dtype for value in load_file(file).values()} == {torch.bfloat16}
        assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_command_writes_what_the_class_reads(tiny_base, tmp_path, capsys):
    arguments = ["--model", str(tiny_base("qwen3_vl")), "--arg", "infer_dtype=float32", "--out", str(tmp_path / "out")]
    assert main(["export", *arguments]) == 2
    assert "say --for-engine" in capsys.readouterr().err
    assert main(["export", *arguments, "--for-engine"]) == 0
    assert f"wrote {tmp_path / 'out'} for engines: qwen3_vl, videos of up to 64 queries" in capsys.readouterr().out
    assert not [file for file in (tmp_path / "out").iterdir() if file.name.startswith(".")]
    StockEngine(tmp_path / "out")
    assert main(["export", *arguments, "--for-engine"]) == 2
    assert "the folder is not empty" in capsys.readouterr().err


def test_the_command_refuses_in_one_line(tiny_base, tmp_path, capsys):
    arguments = ["--model", str(tiny_base("qwen2_5_vl")), "--out", str(tmp_path / "out"), "--for-engine"]
    assert main(["export", *arguments]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("spacevllm-cli export: Qwen2.5-VL") and "real seconds" in line
