"""Hook on `model.loader`: a plain backbone becomes a SpaceVLLM model when a template of ours was chosen."""

from functools import wraps
from types import ModuleType
from typing import Any

from ..data.plan import Preprocessing
from ..modeling.configuration import STAQ_TOKEN, UPGRADES, GroundingOptions, SpaceVLLMConfigMixin, upgrade_config
from ..modeling.modeling import HEAD_MODULES
from .checkpoint import apply_recorded
from .template import TEMPLATES, backbone_of
from .trainer import training_options


def check_match(config: Any, backbone: str | None, model_name: str) -> None:
    """Refuse a template and a model that do not belong together, in one line.

    Raises:
        ValueError: They do not match, or the backbone is unknown.
    """
    model_type = config.model_type.removeprefix("spacevllm_")
    right = next((name for name, spec in TEMPLATES.items() if spec.backbone == model_type), None)
    if backbone is None and isinstance(config, SpaceVLLMConfigMixin):
        raise ValueError(f"{model_name} is a SpaceVLLM model: it needs `template: {right}`.")

    if backbone is not None and right is None:
        raise ValueError(
            f"SpaceVLLM has no backbone for {model_name} (model type `{model_type}`); it has: {', '.join(UPGRADES)}."
        )

    if backbone is not None and backbone != model_type:
        raise ValueError(f"Template and model do not match: {model_name} needs `template: {right}`.")


def prepare_finetuning(finetuning_args: Any) -> None:
    """The heads train in full beside LoRA; freeze tuning trains them too."""
    if finetuning_args.finetuning_type == "freeze":
        finetuning_args.freeze_extra_modules = list(
            dict.fromkeys([*(finetuning_args.freeze_extra_modules or []), *HEAD_MODULES])
        )
    elif finetuning_args.finetuning_type in ("lora", "oft"):
        finetuning_args.additional_target = list(
            dict.fromkeys([*(finetuning_args.additional_target or []), *HEAD_MODULES])
        )


def keep_heads_unquantised(init_kwargs: dict[str, Any]) -> None:
    """Fresh heads have nothing that a quantiser could keep."""
    quantization = init_kwargs.get("quantization_config")
    if quantization is not None and hasattr(quantization, "llm_int8_skip_modules"):
        skipped = quantization.llm_int8_skip_modules or ["lm_head"]
        quantization.llm_int8_skip_modules = [*skipped, *HEAD_MODULES]


def install(module: ModuleType) -> None:
    """Wrap the loaders."""
    # Registers our classes with transformers' auto classes, which LLaMA-Factory chooses from.
    from ..modeling import backbones  # noqa: F401

    load_config, load_model = module.load_config, module.load_model
    patch_processor, patch_config = module.patch_processor, module.patch_config
    apply_liger_kernel = module.apply_liger_kernel

    @wraps(patch_processor)
    def _patch_processor(processor, tokenizer, model_args):
        apply_recorded(model_args, module.logger)
        patch_processor(processor, tokenizer, model_args)
        processor.spacevllm_grounding = GroundingOptions.of(model_args)
        processor.spacevllm_bad_media = model_args.bad_media
        processor.spacevllm_training = training_options(model_args)

    @wraps(load_config)
    def _load_config(model_args):
        config = load_config(model_args)
        backbone = getattr(model_args, "spacevllm_backbone", None)
        check_match(config, backbone, model_args.model_name_or_path)
        if backbone is None:
            return config

        fresh = not isinstance(config, SpaceVLLMConfigMixin)
        options, preprocessing = GroundingOptions.of(model_args), vars(Preprocessing.of(model_args))
        config = upgrade_config(config, model_args.spacevllm_token_id)
        config.grounding, config.preprocessing = options.as_dict(), preprocessing
        if fresh:
            module.logger.info_rank0("Plain backbone: the queries and the space decoder start from fresh weights.")

        return config

    @wraps(patch_config)
    def _patch_config(config, tokenizer, model_args, init_kwargs, is_trainable):
        patch_config(config, tokenizer, model_args, init_kwargs, is_trainable)
        if backbone_of(tokenizer) is not None:
            keep_heads_unquantised(init_kwargs)

    @wraps(apply_liger_kernel)
    def _apply_liger_kernel(config, model_args, is_trainable, require_logits):
        # Liger patches the backbone's own module; its fused loss sits in a forward that we do not use.
        if isinstance(config, SpaceVLLMConfigMixin) and model_args.enable_liger_kernel:
            config = type(config).__mro__[2]()
            require_logits = True

        apply_liger_kernel(config, model_args, is_trainable, require_logits)

    @wraps(load_model)
    def _load_model(tokenizer, model_args, finetuning_args, is_trainable=False, add_valuehead=False):
        model_args.spacevllm_backbone = backbone_of(tokenizer)
        if model_args.spacevllm_backbone is not None:
            model_args.spacevllm_token_id = tokenizer.convert_tokens_to_ids(STAQ_TOKEN)
            prepare_finetuning(finetuning_args)

        return load_model(tokenizer, model_args, finetuning_args, is_trainable, add_valuehead)

    module.patch_processor, module.patch_config = _patch_processor, _patch_config
    module.load_config, module.load_model = _load_config, _load_model
    module.apply_liger_kernel = _apply_liger_kernel
