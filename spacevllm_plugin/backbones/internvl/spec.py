"""InternVL3 and InternVL3.5, as transformers has them."""

from ..spec import BackboneSpec, Composite


SPEC = BackboneSpec(
    name="internvl",
    package=__package__,
    title="InternVL3 / InternVL3.5",
    template="spacevllm_internvl",
    config="config:SpaceVLLMInternVLConfig",
    model="model:SpaceVLLMInternVLForConditionalGeneration",
    prompter="prompter:InternVLPrompter",
    tiny="tiny:build",
    processor_class="InternVLProcessor",
    image_token="<IMG_CONTEXT>",
    video_token="<video>",
    special_tokens=("<img>", "</img>", "<IMG_CONTEXT>"),
    frame_tokens=lambda pixels: 16 * 16 + 1 + 2 + 7,
    hub_ids={
        "SpaceVLLM-InternVL3-1B": "OpenGVLab/InternVL3-1B-hf",
        "SpaceVLLM-InternVL3-2B": "OpenGVLab/InternVL3-2B-hf",
        "SpaceVLLM-InternVL3-8B": "OpenGVLab/InternVL3-8B-hf",
        "SpaceVLLM-InternVL3-14B": "OpenGVLab/InternVL3-14B-hf",
        "SpaceVLLM-InternVL3-38B": "OpenGVLab/InternVL3-38B-hf",
        "SpaceVLLM-InternVL3-78B": "OpenGVLab/InternVL3-78B-hf",
        "SpaceVLLM-InternVL3.5-1B": "OpenGVLab/InternVL3_5-1B-HF",
        "SpaceVLLM-InternVL3.5-2B": "OpenGVLab/InternVL3_5-2B-HF",
        "SpaceVLLM-InternVL3.5-4B": "OpenGVLab/InternVL3_5-4B-HF",
        "SpaceVLLM-InternVL3.5-8B": "OpenGVLab/InternVL3_5-8B-HF",
        "SpaceVLLM-InternVL3.5-14B": "OpenGVLab/InternVL3_5-14B-HF",
        "SpaceVLLM-InternVL3.5-38B": "OpenGVLab/InternVL3_5-38B-HF",
    },
    composite=Composite(projector_keys=("model.multi_modal_projector",)),
    # It reads times in a sentence before the frames, not as a stamp beside each.
    quickstart=("max_steps=1000",),
    limits=("images are seen whole, as one tile, without high-resolution crops",),
)
