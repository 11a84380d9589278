import numpy as np
import pytest
import torch
from conftest import BACKBONES
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.video_utils import VideoMetadata

from spacevllm_plugin.backbones import registry
from spacevllm_plugin.backbones.tiny import FRAME_SIZE, MIN_SPARE_IDS, make_tiny
from spacevllm_plugin.cli.main import CommandError, build_parser


NUM_FRAMES = 12
TEXTS = [
    "From 1.0 to 2.5 seconds.",
    "<1.5 seconds>the red circle that moves left<|im_end|>\n",
    "The video lasts for 6.00 seconds, and 12 frames are uniformly sampled from it.",
    "caf\u00e9 \u7ea2\u8272",
]


@pytest.fixture(scope="module", params=BACKBONES)
def tiny(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    make_tiny(request.param, out, seed=1)
    return request.param, out


def inputs_of(backbone, processor, kind):
    """One prompt with one image or one video, through the processor's own `__call__`."""
    rng = np.random.default_rng(0)
    item = {"type": kind}
    messages = [{"role": "user", "content": [item, {"type": "text", "text": "the red circle that moves left"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text.startswith("<|im_start|>user\n")
    assert text.endswith("left<|im_end|>\n<|im_start|>assistant\n" + registry.get(backbone).empty_thought)
    if kind == "image":
        image = rng.integers(0, 255, (FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
        return processor(text=[text], images=[image], return_tensors="pt")

    frames = rng.integers(0, 255, (NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
    metadata = VideoMetadata(total_num_frames=NUM_FRAMES, fps=2.0, frames_indices=list(range(NUM_FRAMES)))
    return processor(
        text=[text],
        videos=[list(frames)],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
    )


def test_tokenizer_reloads_as_it_was(tiny):
    backbone, out = tiny
    tokenizer, again = AutoTokenizer.from_pretrained(out), AutoProcessor.from_pretrained(out).tokenizer
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.chat_template == again.chat_template is not None
    for special in tokenizer.all_special_tokens:
        assert tokenizer.tokenize(f"a{special}b") == ["a", special, "b"]

    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert ids == again(text).input_ids
        assert tokenizer.decode(ids) == text

    assert tokenizer.tokenize("12.50s") == list("12.50s")
    assert tokenizer.tokenize(" circle") == ["\u0120circle"]


def test_config_matches_the_tokenizer(tiny):
    backbone, out = tiny
    config, tokenizer = AutoConfig.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert config.model_type == backbone
    assert config.get_text_config().vocab_size >= len(tokenizer) + MIN_SPARE_IDS
    spec = registry.get(backbone)
    image, video = tokenizer.convert_tokens_to_ids([spec.image_token, spec.video_token])
    assert config.image_token_id == image != video is not None
    assert getattr(config, "video_token_id", video) == video  # one that writes images' tokens for frames has none
    if hasattr(config, "vision_start_token_id"):
        assert config.vision_start_token_id == tokenizer.convert_tokens_to_ids("<|vision_start|>")
        assert config.vision_end_token_id == tokenizer.convert_tokens_to_ids("<|vision_end|>")


@pytest.mark.parametrize("kind", ["image", "video"])
def test_forward_and_generate(tiny, kind):
    backbone, out = tiny
    processor = AutoProcessor.from_pretrained(out)
    model = AutoModelForImageTextToText.from_pretrained(out).eval()
    assert 5e5 < model.num_parameters() < 2e6
    tokenizer = processor.tokenizer
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id

    inputs = inputs_of(backbone, processor, kind)
    name = f"{kind}_token_id" if hasattr(model.config, f"{kind}_token_id") else "image_token_id"
    assert (inputs["input_ids"] == getattr(model.config, name)).sum() > 0

    with torch.no_grad():
        logits = model(**inputs).logits
        for name in ("pixel_values", "pixel_values_videos"):
            if name in inputs:  # the picture must matter
                assert not torch.allclose(logits, model(**{**inputs, name: -inputs[name]}).logits, atol=1e-3)

    assert logits.isfinite().all()
    generated = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert generated.shape[1] == inputs["input_ids"].shape[1] + 4


def test_saved_again_gives_identical_logits(tiny, tmp_path):
    backbone, out = tiny
    processor, model = AutoProcessor.from_pretrained(out), AutoModelForImageTextToText.from_pretrained(out)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    with torch.no_grad():
        before = model(**inputs_of(backbone, processor, "video")).logits
        after = again(**inputs_of(backbone, AutoProcessor.from_pretrained(tmp_path), "video")).logits

    assert torch.equal(before, after)


def test_seed_decides_the_weights_and_nothing_else(tiny, tmp_path):
    backbone, out = tiny
    state = torch.get_rng_state()
    for seed in (1, 2):
        make_tiny(backbone, tmp_path / str(seed), seed=seed)

    assert torch.equal(state, torch.get_rng_state())
    weights = [(folder / "model.safetensors").read_bytes() for folder in (out, tmp_path / "1", tmp_path / "2")]
    assert weights[0] == weights[1] != weights[2]
    names = [path.name for path in out.iterdir() if path.name != "model.safetensors"]
    assert all((out / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in names)


def test_llamafactory_loads_it(tiny):
    pytest.importorskip("llamafactory")
    from llamafactory.hparams import ModelArguments
    from llamafactory.model.loader import load_config, load_tokenizer

    backbone, out = tiny
    args = ModelArguments(model_name_or_path=str(out))
    loaded = load_tokenizer(args)
    assert type(loaded["processor"]) is type(AutoProcessor.from_pretrained(out))
    assert loaded["tokenizer"].pad_token == "<|endoftext|>"
    assert load_config(args).model_type == backbone


def test_own_corpus(tmp_path):
    make_tiny("qwen3_vl", tmp_path, corpus=["a zebra gallops"] * 2)
    assert AutoTokenizer.from_pretrained(tmp_path).tokenize(" zebra") == ["\u0120zebra"]


def test_command(tmp_path):
    parser = build_parser("make-tiny")
    with pytest.raises(CommandError, match="no backbone .*; there are: .*llava_onevision, "):
        args = parser.parse_args(["gpt", "--out", str(tmp_path)])
        args.run(args)

    args = parser.parse_args(["qwen3_vl", "--out", str(tmp_path / "a" / "b")])
    args.run(args)
    assert AutoConfig.from_pretrained(tmp_path / "a" / "b").model_type == "qwen3_vl"
