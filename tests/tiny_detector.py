"""A tiny Grounding-DINO of random weights in a folder, with its processor, as a checkpoint of the hub has it."""

import torch
from transformers import (
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
)


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
