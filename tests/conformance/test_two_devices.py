"""A model on two GPUs, spread by accelerate as LLaMA-Factory's inference does it, and when it is not to be spread."""

import copy

import pytest
import torch
from accelerate import dispatch_model, infer_auto_device_map
from conftest import BACKBONES, collate, supervised
from fake_devices import FakeDevices
from runs import TEMPLATES

from spacevllm_plugin.backbones import registry
from spacevllm_plugin.backbones.upgrade import placeholder_ids
from spacevllm_plugin.integration.placement import first_with_room, weight_bytes


GIB = 2**30


def test_fake_devices_keep_to_torchs_rules():
    with FakeDevices():
        cpu, first, second = torch.arange(3), torch.arange(3).to("cuda:0"), torch.arange(3, device="cuda:1")
        assert [tensor.device.index for tensor in (cpu, first + 1, second[1:], first.to(second))] == [None, 0, 1, 1]
        for mix in (torch.add, torch.equal, torch.Tensor.__getitem__, lambda a, b: torch.stack([a, b])):
            with pytest.raises(RuntimeError, match="device|index"):
                mix(first, second)

        with pytest.raises(RuntimeError, match="index on cuda:1"):
            cpu[second]

        with pytest.raises(RuntimeError, match="value on cuda:1"):
            first[:] = second

        assert first[cpu].tolist() == [0, 1, 2] and (first + torch.tensor(1)).device == first.device
        assert torch.zeros(3, device="cuda:0").copy_(second).device == first.device


@pytest.fixture(scope="module", params=BACKBONES)
def engine(request, make_engine):
    return make_engine(request.param, presence_head=True, space_decoder_attention="projected")


def spread(model, share):
    """Where accelerate puts the parts of a model if the first GPU holds a share of its weights."""
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    places = infer_auto_device_map(model, {0: int(share * size), 1: 2 * size}, list(model._no_split_modules))
    return {name: f"cuda:{gpu}" for name, gpu in places.items()}  # torch without GPUs may not know what 0 is


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_spread_model_gives_the_same_numbers(engine, prompts, share):
    """From hardly more than the vision tower on the first GPU to all but the last layers and the heads."""
    batch = supervised(engine, [prompts(engine)[name] for name in ("mixed", "video", "text")])
    prompt = collate(engine, [prompts(engine)[name] for name in ("video", "mixed")])
    answer = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    model, sink, same_sink = copy.deepcopy(engine.model), [], []
    # accelerate knows tied weights by their addresses: here, where all devices share one memory, none may be used again.
    originals = [parameter.data for parameter in model.parameters()]
    places = spread(model, share)
    assert set(places.values()) == {"cuda:0", "cuda:1"}
    with torch.no_grad():
        expected = engine.model(**batch)
        tokens = engine.model.generate(**prompt, **answer, box_sink=sink)
        with FakeDevices():
            dispatch_model(model, places)
            assert {p.device.index for p in model.parameters()} >= {0, 1}
            found = model(**{name: value.to(model.device) for name, value in batch.items()})
            on_first = {name: value.to(model.device) for name, value in prompt.items()}
            same = model.generate(**on_first, **answer, box_sink=same_sink)
            for name in ("boxes", "presence", "loss", "loss_l1", "loss_presence"):
                assert torch.equal(found[name].cpu(), expected[name]), name

            assert same.tolist() == tokens.tolist() and torch.equal(same_sink[0].cpu(), sink[0])
            del originals  # kept until here


def test_the_space_decoder_is_never_split(engine):
    for share in torch.linspace(0.2, 0.99, 40).tolist():
        assert not any(name.startswith("space_decoder.") for name in spread(engine.model, share)), share


# Where it goes.


@pytest.mark.parametrize(
    ("weights", "free", "gpu"),
    [
        (15.4, [24, 24], 0),
        (15.4, [16, 24], 1),  # somebody else is on the first
        (15.4, [16, 16], None),
        (8.3, [16, 16], 0),
        (15, [20], 0),
        (15.1, [20], None),
        (1, [], None),
    ],
)
def test_a_model_goes_to_the_first_gpu_with_room_to_spare(weights, free, gpu):
    assert first_with_room(int(weights * GIB), enumerate(int(memory * GIB) for memory in free)) == gpu


def test_gpus_behind_the_first_that_fits_are_left_alone():
    """Asking one for its memory already takes some of it."""
    free = iter([(0, 1), (1, 100), (2, 100)])
    assert first_with_room(10, free) == 1 and next(free) == (2, 100)


@pytest.mark.parametrize(
    ("backbone", "gpus", "free", "place"),
    [(backbone, 2, 80 * GIB, {"": 0}) for backbone in BACKBONES]
    + [("qwen3_vl", 2, 2**20, "auto"), ("qwen3_vl", 1, 80 * GIB, "auto")],
)
def test_only_what_does_not_fit_one_gpu_is_spread(tiny_base, monkeypatch, backbone, gpus, free, place):
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.hparams import get_infer_args
    from llamafactory.model import load_tokenizer, loader

    given = {"model_name_or_path": str(tiny_base(backbone)), "template": TEMPLATES[backbone]}
    model_args, data_args, _, _ = get_infer_args(given)
    tokenizer = load_tokenizer(model_args)["tokenizer"]
    get_template_and_fix_tokenizer(tokenizer, data_args)
    model_args.placeholder_ids = placeholder_ids(registry.get(backbone), tokenizer)
    config, init_kwargs = loader.load_config(model_args), {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (free, free))
    loader.patch_config(config, tokenizer, model_args, init_kwargs, False)
    assert init_kwargs["device_map"] == place


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_the_weights_are_known_before_they_are_read(engine, dtype):
    config = copy.deepcopy(engine.model.config)
    config.dtype = dtype
    assert weight_bytes(config) == sum(p.numel() for p in engine.model.parameters()) * dtype.itemsize
