"""`sentences_per_video`: which rows become one, and that a training with it is the training without."""

import json

import pytest
import torch
from conftest import write_video
from runs import arguments, command, largest_difference, model_and_batch, tokenise, train, weights, write_data
from test_token_cache import start  # noqa: F401  (a fixture)

from spacevllm_plugin.data.synthetic import SynthConfig, write_set
from spacevllm_plugin.integration.sentences import find_groups


@pytest.fixture(scope="module")
def base(tiny_base):
    return tiny_base("qwen3_vl")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sixteen rows in turn, four about each of three videos, two about an image and two of text."""
    folder = tmp_path_factory.mktemp("sentences") / "data"
    rows = [row.model_dump(exclude_none=True) for row in write_set(folder, SynthConfig(num_videos=3, seed=3))]
    about = {}
    for row in rows:
        about.setdefault(row["videos"][0], []).append(row)

    videos = []
    for number, own in enumerate(about.values()):
        question = [
            {"role": "user", "content": f"<video>How many shapes are there, {number}?"},
            {"role": "assistant", "content": "Three."},
        ]
        media = {name: own[0][name] for name in ("videos", "media")}
        videos.append([*own[:3], {"id": f"qa/{number}", "task": "qa", "messages": question, **media}])

    (rec, *_) = write_set(folder / "rec", SynthConfig(num_videos=1, tasks=("rec",)))
    rec = {**rec.model_dump(exclude_none=True), "images": [f"rec/{rec.images[0]}"]}
    again = [{"role": "user", "content": "<image>Point it out once more, please."}, rec["messages"][1]]
    others = [rec, {**rec, "id": "again", "messages": again}]
    for number in range(2):
        words = [{"role": "user", "content": f"Colour {number}?"}, {"role": "assistant", "content": "Red."}]
        others.append({"id": f"text/{number}", "task": "qa", "messages": words})

    write_data(folder, [row for four in zip(*videos, others) for row in four])
    return folder


def test_groups_are_filled_in_order_and_never_beyond_the_cutoff():
    rows = [("a", 10, 8), ("b", 9, 8), ("a", 11, 8), (None, 50, None), ("a", 12, 8), ("b", 13, 8), ("a", 10, 8)]
    assert find_groups(rows, 8, 100) == [[0, 2, 4, 6], [1, 5], [3]]
    assert find_groups(rows, 2, 100) == [[0, 2], [1, 5], [3], [4, 6]]
    # 10 + 3, and 4 more would be 17; 9 + 5 is 14
    assert find_groups(rows, 8, 14) == [[0, 2], [1, 5], [3], [4, 6]]
    assert find_groups(rows, 8, 13) == [[0, 2], [1], [3], [4], [5], [6]]
    assert find_groups(rows, 1, 100) == [[number] for number in range(7)]


def grouped(base, data, out, **options):
    return tokenise(base, data, out, **{"dataset": "rows", **options})["train_dataset"]


def test_by_default_rows_are_as_they_were(base, data, tmp_path):
    plain = grouped(base, data, tmp_path)
    assert plain.column_names == ["input_ids", "attention_mask", "labels", "images", "videos", "audios"] + [
        *("box_targets", "annotation")
    ]
    one = grouped(base, data, tmp_path, sentences_per_video=1)
    assert one.features == plain.features and str(one[:]) == str(plain[:]) and len(one) == 16  # NaN is not itself
    _, batch = model_and_batch(arguments(base, data, tmp_path, dataset="rows"), 16)
    assert not {"sentence_ids", "box_lines"} & batch.keys()


def test_a_group_holds_each_rows_tokens_labels_and_targets(base, data, tmp_path):
    rows, groups = grouped(base, data, tmp_path), grouped(base, data, tmp_path, sentences_per_video=3)
    assert [len(lengths) for lengths in groups["sentence_lengths"]] == [3, 3, 3, 2, 0, 0, 0, 0, 0]
    members = [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7], [11], [12], [13], [14], [15]]
    for group, numbers in zip(groups, members):
        lengths = group["sentence_lengths"] or [len(group["input_ids"])]
        shared = len(group["input_ids"]) - sum(lengths)
        assert len(group["attention_mask"]) == len(group["labels"]) == shared + sum(lengths)
        begin, targets = shared, []
        for number, length in zip(numbers, lengths):
            row = rows[number]
            for name in ("input_ids", "labels", "attention_mask"):
                assert group[name][:shared] + group[name][begin : begin + length] == row[name]

            assert (group["videos"], group["images"]) == (row["videos"], row["images"])
            targets += row["box_targets"]
            begin += length

        assert (
            torch.tensor(group["box_targets"]).nan_to_num(-1).tolist() == torch.tensor(targets).nan_to_num(-1).tolist()
        )


def test_a_group_that_would_be_too_long_has_fewer_sentences(base, data, tmp_path):
    rows = grouped(base, data, tmp_path)
    longest = max(map(len, rows["input_ids"]))
    whole = grouped(base, data, tmp_path, sentences_per_video=4)
    less = grouped(base, data, tmp_path, sentences_per_video=4, cutoff_len=longest)
    assert max(map(len, whole["input_ids"])) > longest >= max(map(len, less["input_ids"]))
    assert len(whole) < len(less) <= 16
    assert sum(max(len(lengths), 1) for lengths in less["sentence_lengths"]) == 16


def test_only_rows_that_see_the_same_share_it(base, tmp_path):
    """Other clips, other system messages, and media in two turns."""
    file = write_video(tmp_path / "a.mp4", 8)
    media = {"width": 48, "height": 48, "fps": 4.0, "num_frames": 8}

    def row(name, question, clip=None, system=None, history=()):
        turns = [{"role": "user", "content": f"<video>{question}"}, {"role": "assistant", "content": "Here."}]
        system = [{"role": "system", "content": system}] if system else []
        shown = {"videos": [file], "media": {**media, **({"clip": clip} if clip else {})}}
        return {"id": name, "task": "qa", "messages": [*system, *history, *turns], **shown}

    early = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"}]
    later = [{"role": "user", "content": "And when?"}, {"role": "assistant", "content": "Now."}]
    rows = [
        row("a", "Who?"),
        row("clip", "Who?", [1, 6]),
        row("system", "Who?", system="Be brief."),
        row("b", "Where?"),
        row("clip2", "Where?", [1, 6]),
        row("system2", "Where?", system="Be brief."),
        row("taught", "Who?", history=early),
        row("taught2", "Where?", history=early),
        {**row("turns", "Why?"), "messages": [*row("", "Why?")["messages"], *later]},
    ]
    data = write_data(tmp_path / "data", rows)
    found = grouped(base, data, tmp_path / "out", sentences_per_video=8)
    assert [len(lengths) for lengths in found["sentence_lengths"]] == [3, 2, 2, 0, 0]
    # Where earlier turns teach nothing they may be shared.
    found = grouped(base, data, tmp_path / "out", sentences_per_video=8, mask_history=True)
    assert [len(lengths) for lengths in found["sentence_lengths"]] == [3, 2, 2, 2]


COMMON = {"dataset": "rows", "max_steps": 2, "optim": "sgd", "learning_rate": 0.05, "presence_head": True}
SENTENCES = {"sentences_per_video": 4}
LORA = {"finetuning_type": "lora", "lora_target": "all", "freeze_vision_tower": True}
# Four rows a video, one image, two texts: six sequences. All sixteen rows, or all six sequences, are one step.
RUNS = {
    "alone": {"per_device_train_batch_size": 16},
    "grouped": {"per_device_train_batch_size": 6, **SENTENCES},
    "accumulated": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 6, **SENTENCES},
    "checkpointing": {"per_device_train_batch_size": 6, "disable_gradient_checkpointing": False, **SENTENCES},
    "eager": {"per_device_train_batch_size": 6, "flash_attn": "disabled", **SENTENCES},
    "lora_alone": {"per_device_train_batch_size": 16, **LORA},
    "lora_grouped": {"per_device_train_batch_size": 6, **LORA, **SENTENCES},
}


@pytest.fixture(scope="module")
def runs(base, data, tmp_path_factory):
    """Two SGD steps over the whole set, by whatever sequences."""
    out = tmp_path_factory.mktemp("runs")
    logs = {name: train(base, data, out / name, **COMMON, **more) for name, more in RUNS.items()}
    launcher = out / "launch.py"
    launcher.write_text(
        "import json, sys\nfrom llamafactory.train.tuner import run_exp\nrun_exp(json.load(open(sys.argv[1])))\n"
    )
    run = arguments(
        base, data, out / "ranks", **COMMON, **SENTENCES, per_device_train_batch_size=3, ddp_backend="gloo"
    )
    (out / "ranks.json").write_text(json.dumps(run))
    torchrun = ("torchrun", "--standalone", "--nproc-per-node", "2")
    command(*torchrun, str(launcher), str(out / "ranks.json"), env={"CUDA_VISIBLE_DEVICES": ""})
    logs["ranks"] = json.loads((out / "ranks" / "trainer_state.json").read_text())["log_history"]
    return out, logs


@pytest.mark.parametrize("other", [name for name in [*RUNS, "ranks"] if "alone" not in name])
def test_a_training_is_that_of_rows_one_by_one(runs, other):
    out, logs = runs
    one = "lora_alone" if "lora" in other else "alone"
    for a, b in zip(logs[one][:2], logs[other][:2]):
        for part in ("loss", "loss_lm", "loss_l1", "loss_giou", "loss_presence", "anchor_entropy", "anchor_offset"):
            assert a[part] == pytest.approx(b[part], rel=1e-4), (part, a["step"])

    assert largest_difference(weights(out / one), weights(out / other)) < 2e-5


def test_resumed_run_equals_uninterrupted_run(base, data, tmp_path):
    common = {"dataset": "rows", "max_steps": 4, "per_device_train_batch_size": 2, **SENTENCES}
    common["disable_shuffling"] = False
    train(base, data, tmp_path / "whole", **common, save_strategy="steps", save_steps=2)
    checkpoint = str(tmp_path / "whole" / "checkpoint-2")
    train(base, data, tmp_path / "resumed", **common, resume_from_checkpoint=checkpoint)
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "resumed")) < 1e-6


def test_evaluation_goes_row_by_row(base, data, tmp_path):
    run = {"max_steps": 1, "eval_dataset": "rows", "do_eval": True, "eval_strategy": "steps", "eval_steps": 1}
    run |= {"dataset": "rows", "per_device_eval_batch_size": 4, "learning_rate": 1e-9}
    alone = train(base, data, tmp_path / "alone", **run)
    log = train(base, data, tmp_path / "grouped", **run, **SENTENCES)
    (one,), (other,) = ([entry for entry in entries if "eval_loss" in entry] for entries in (alone, log))
    for name in ("eval_loss", "eval_m_tIoU", "eval_m_vIoU", "eval_rec_Acc@0.5"):
        assert one[name] == pytest.approx(other[name], abs=1e-5), name

    sets = tokenise(base, data, tmp_path / "out", dataset="rows", val_size=0.25, **SENTENCES)
    assert len(sets["eval_dataset"]) == 4 and "sentence_lengths" not in sets["eval_dataset"].column_names
    assert "sentence_lengths" in sets["train_dataset"].column_names


def test_second_start_neither_tokenises_nor_groups(data, start, capsys):  # noqa: F811
    count, first = start(data, **SENTENCES)
    assert count == 16 and len(first) == 6
    count, again = start(data, **SENTENCES)
    assert count == 0 and again["input_ids"] == first["input_ids"]
    assert again.cache_files == first.cache_files
    count, other = start(data, sentences_per_video=2)  # other groups of the same tokens
    assert count == 0 and len(other) == 9


def test_tokenised_rows_remember_how_they_were_grouped(base, data, tmp_path):
    run = {"dataset": "rows", "tokenized_path": str(tmp_path / "tokenised")}
    tokenise(base, data, tmp_path, **run, **SENTENCES)
    assert len(tokenise(base, data, tmp_path, **run, **SENTENCES)["train_dataset"]) == 6
    with pytest.raises(ValueError, match="sentences_per_video 4, now 1"):
        tokenise(base, data, tmp_path, **run)


def test_a_video_that_breaks_takes_its_group_along(base, data, tmp_path):
    """With `bad_media: skip` it becomes a sequence that teaches nothing; the others stay as they were."""
    files = [write_video(tmp_path / f"{name}.mp4", 6, first=10 * number) for number, name in enumerate("ab")]
    rows = [
        {
            "id": f"{file}/{word}",
            "task": "qa",
            "messages": [{"role": "user", "content": f"<video>{word}?"}, {"role": "assistant", "content": "Red."}],
            "videos": [file],
        }
        for file in files
        for word in ("Who", "What colour")
    ]
    folder = write_data(tmp_path / "data", rows)
    run = arguments(base, folder, tmp_path / "out", dataset="rows", bad_media="skip", **SENTENCES)
    from llamafactory.hparams import get_train_args
    from llamafactory.train.sft import workflow

    model_args, data_args, training_args, finetuning_args, _ = get_train_args(dict(run))
    tokenizers = workflow.load_tokenizer(model_args)
    template = workflow.get_template_and_fix_tokenizer(tokenizers["tokenizer"], data_args)
    sets = workflow.get_dataset(template, model_args, data_args, training_args, stage="sft", **tokenizers)
    model = workflow.load_model(tokenizers["tokenizer"], model_args, finetuning_args, False)
    collator = workflow.SFTDataCollatorWith4DAttentionMask(template=template, model=model, **tokenizers)
    features = [sets["train_dataset"][number] for number in range(2)]
    whole = collator(features)
    (tmp_path / "b.mp4").write_bytes(b"no video any more")
    rest = collator(features)
    assert whole["sentence_ids"].amax(dim=1).tolist() == [2, 2] and rest["sentence_ids"].amax(dim=1).tolist() == [2, 0]
    assert len(rest["box_lines"]) == len(whole["box_lines"]) // 2 == len(rest["box_targets"])
    assert (rest["labels"][1] == -100).all()
    assert torch.isfinite(model(**rest).loss)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"instruction_first": True}, "`sentences_per_video` must be 1 here: with `instruction_first: true`"),
        ({"train_on_prompt": True}, "with `train_on_prompt: true`"),
        ({"flash_attn": "fa2"}, "flash attention takes no masks but causal ones: set `flash_attn: sdpa`"),
        ({"sentences_per_video": 0}, "sentences_per_video must be at least 1, not 0"),
    ],
)
def test_what_keeps_sentences_from_sharing_is_refused(base, data, tmp_path, option, says):
    with pytest.raises(ValueError, match=says) as caught:
        tokenise(base, data, tmp_path, **{"dataset": "rows", **SENTENCES, **option})

    assert "\n" not in str(caught.value)


def test_attention_that_takes_no_mask_is_refused_by_the_model_too(base, data, tmp_path):
    model, batch = model_and_batch(arguments(base, data, tmp_path, dataset="rows", **SENTENCES), 1)
    text = model.config.get_text_config()
    for name, says in (("flash_attention_2", "flash_attention_2 takes no masks"), ("sdpa", "sliding_attention")):
        text._attn_implementation = name
        text.layer_types = ["sliding_attention"] if name == "sdpa" else None
        with pytest.raises(ValueError, match=says):
            model(**batch)


def test_flex_attention_gets_the_same_mask(base, data, tmp_path):
    """What it says of each pair of tokens; its kernels take minutes to compile, and have no backward pass on CPUs."""
    from torch.nn.attention.flex_attention import create_mask

    from spacevllm_plugin.modeling.sentences import sentence_mask

    model, batch = model_and_batch(arguments(base, data, tmp_path, dataset="rows", **SENTENCES), 6)
    text, embeds = model.config.get_text_config(), torch.zeros(*batch["input_ids"].shape, 4)
    masks = {}
    for name in ("sdpa", "eager", "flex_attention"):
        text._attn_implementation = name
        masks[name] = sentence_mask(text, embeds, batch["attention_mask"], batch["sentence_ids"])

    size = (len(embeds), 1, embeds.shape[1], embeds.shape[1])
    flex = create_mask(masks["flex_attention"].mask_mod, *size, device="cpu")
    assert torch.equal(masks["sdpa"], flex) and torch.equal(masks["eager"] == 0, flex)
    ids = batch["sentence_ids"][0]
    for query in range(0, len(ids), 7):
        seen = [key for key in range(query + 1) if ids[key] in (0, ids[query])]
        assert flex[0, 0, query].nonzero()[:, 0].tolist() == seen
