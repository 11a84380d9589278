"""A tiny Grounding-DINO of random weights in a folder, with its processor, as a checkpoint of the hub has it."""

from functools import partial

import torch
from conftest import write_video
from transformers import (
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
)
from unistg_parts import vtg, write_lines

from spacevllm_plugin.unistg.rows import Analyzed


WORDS = "a the man woman in red green blue yellow purple cyan circle square triangle door cup ball object and".split()


def write_tiny_detector(folder, seed=0):
    """Its boxes and scores mean nothing, but they depend on the image and on the text."""
    folder.mkdir(parents=True)
    # Grounding-DINO knows [CLS], [SEP], full stop and question mark by their ids in BERT's vocabulary.
    vocabulary = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    vocabulary |= dict(enumerate(WORDS, start=1030))
    tokens = [vocabulary.get(i, f"[unused{i}]") for i in range(max(vocabulary) + 1)]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
    assert tokenizer.convert_tokens_to_ids([".", "[SEP]"]) == [1012, 102]
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 2,
            "image_size": 128,
            "out_features": ["stage2", "stage3", "stage4"],
        },
        text_config={
            "model_type": "bert",
            "vocab_size": len(tokens),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        },
        d_model=32,
        num_queries=8,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        disable_custom_kernels=True,
        init_std=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GroundingDinoForObjectDetection(config)

    model.save_pretrained(folder)
    image_processor = GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 128})
    GroundingDinoProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


def annotate_options(folder):
    """Of `unistg annotate`, all but where to write: six rows, of which two have a video that is not there."""
    write_video(folder / "v.mp4", 30)
    row = partial(vtg, span=(2, 20), fps=4.0, num_frames=30, size=(48, 48))
    rows = [row(str(i), video="v.mp4" if i % 3 else "gone.mp4") for i in range(6)]
    objects = [Analyzed(id=row["id"], source=row, objects=["man", "red circle"]) for row in rows]
    data, detector = write_lines(folder / "in.jsonl", objects), write_tiny_detector(folder / "tiny")
    return ["--data", data, "--media-dir", folder, "--detector", detector, "--stride", 6, "--device", "cpu"]
