"""Hook on `model.loader`: a plain backbone becomes a SpaceVLLM model when a template of ours was chosen."""

from functools import wraps
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

from transformers.integrations import is_deepspeed_zero3_enabled

from ..backbones import registry
from ..backbones.spec import BackboneSpec
from ..backbones.upgrade import placeholder_ids, register_configs, register_model, spec_of, upgrade_config
from ..data.plan import Preprocessing
from ..modeling.configuration import GroundingOptions, SpaceVLLMConfigMixin
from ..modeling.grounding_model import HEAD_MODULES
from .checkpoint import apply_recorded
from .options import RunOptions, read_options
from .placement import keep_on_one_gpu


def backbone_of(model_args: Any) -> str | None:
    """The backbone of the template that arguments chose; None if it is none of ours."""
    return getattr(model_args, "backbone", None)  # a script may have built LLaMA-Factory's own arguments


def check_match(config: Any, backbone: str | None, model_name: str) -> None:
    """Refuse a template and a model that do not belong together, in one line.

    Raises:
        ValueError: They do not match, or the backbone is unknown.
    """
    ours = isinstance(config, SpaceVLLMConfigMixin)
    if backbone is None and not ours:
        return

    spec = spec_of(config.model_type, model_name)
    if backbone is None:
        raise ValueError(f"{model_name} is a SpaceVLLM model: it needs `template: {spec.template}`.")

    if backbone != spec.name:
        raise ValueError(f"Template and model do not match: {model_name} needs `template: {spec.template}`.")


def save_heads_with_adapter(finetuning_args: Any) -> None:
    """The heads train in full beside LoRA, as peft's modules to save."""
    if finetuning_args.finetuning_type in ("lora", "oft"):
        given = finetuning_args.additional_target or []
        finetuning_args.additional_target = list(dict.fromkeys([*given, *HEAD_MODULES]))


def unfreeze_heads(model: Any) -> None:
    """Freeze tuning chooses layers by number and cannot name the heads; they are fresh and must train."""
    for name in HEAD_MODULES:
        for parameter in getattr(model, name).parameters():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


def keep_heads_unquantised(init_kwargs: dict[str, Any]) -> None:
    """Fresh heads have nothing that a quantiser could keep."""
    quantization = init_kwargs.get("quantization_config")
    for name in ("llm_int8_skip_modules", "skip_modules", "modules_to_not_convert"):  # bitsandbytes, HQQ, EETQ
        if hasattr(quantization, name):
            setattr(quantization, name, [*(getattr(quantization, name) or ["lm_head"]), *HEAD_MODULES])


def weigh_router_loss(config: Any, weight: float | None) -> None:
    """`moe_aux_loss_coef`, which LLaMA-Factory sets by model types that it knows; the checkpoint's own if not given."""
    if weight is not None:
        config.get_text_config().router_aux_loss_coef = weight


def gather_experts_alike(model: Any, spec: BackboneSpec) -> None:
    """Under ZeRO-3, what `add_z3_leaf_module` does for the model types that LLaMA-Factory knows."""
    if spec.expert_block is not None:
        from deepspeed.utils import set_z3_leaf_modules

        set_z3_leaf_modules(model, [resolve_name(spec.expert_block)])


def install(module: ModuleType) -> None:
    """Wrap the loaders."""
    register_configs()
    load_config, load_model = module.load_config, module.load_model
    patch_processor, patch_config = module.patch_processor, module.patch_config
    apply_liger_kernel = module.apply_liger_kernel

    @wraps(patch_processor)
    def _patch_processor(processor, tokenizer, model_args):
        ours = isinstance(model_args, GroundingOptions)  # not where a script built LLaMA-Factory's own arguments
        if ours:
            apply_recorded(model_args, module.logger)

        patch_processor(processor, tokenizer, model_args)
        if ours:
            RunOptions.of(model_args).put_on(processor)

    @wraps(load_config)
    def _load_config(model_args):
        config = load_config(model_args)
        backbone = backbone_of(model_args)
        check_match(config, backbone, model_args.model_name_or_path)
        if backbone is None:
            return config

        register_model(registry.get(backbone))
        config = upgrade_config(config, model_args.placeholder_ids)
        config.grounding = read_options(GroundingOptions, model_args).as_dict()
        config.preprocessing = vars(read_options(Preprocessing, model_args))
        return config

    @wraps(patch_config)
    def _patch_config(config, tokenizer, model_args, init_kwargs, is_trainable):
        patch_config(config, tokenizer, model_args, init_kwargs, is_trainable)
        backbone = backbone_of(model_args)
        if backbone is not None:
            keep_heads_unquantised(init_kwargs)
            keep_on_one_gpu(config, init_kwargs)
            if is_trainable and registry.get(backbone).expert_block is not None:
                weigh_router_loss(config, model_args.moe_aux_loss_coef)

    @wraps(apply_liger_kernel)
    def _apply_liger_kernel(config, model_args, is_trainable, require_logits):
        # Liger patches the backbone's own module; its fused loss sits in a forward that we do not use.
        if isinstance(config, SpaceVLLMConfigMixin) and model_args.enable_liger_kernel:
            config = type(config).__mro__[2]()
            require_logits = True

        apply_liger_kernel(config, model_args, is_trainable, require_logits)

    @wraps(load_model)
    def _load_model(tokenizer, model_args, finetuning_args, is_trainable=False, add_valuehead=False):
        ours = backbone_of(model_args) is not None
        if ours:
            model_args.placeholder_ids = placeholder_ids(registry.get(model_args.backbone), tokenizer)
            save_heads_with_adapter(finetuning_args)
            if not isinstance(load_config(model_args), SpaceVLLMConfigMixin):
                says = "Plain backbone: the queries and the space decoder start from fresh weights."
                if is_trainable or model_args.adapter_name_or_path is not None:
                    module.logger.info_rank0(says)
                else:  # somebody is about to use them as they are
                    module.logger.warning_rank0(f"{says} Its boxes mean nothing yet.")

        model = load_model(tokenizer, model_args, finetuning_args, is_trainable, add_valuehead)
        if ours and is_trainable and finetuning_args.finetuning_type == "freeze":
            unfreeze_heads(model)

        if ours and is_deepspeed_zero3_enabled():
            gather_experts_alike(model, registry.get(model_args.backbone))

        return model

    module.patch_processor, module.patch_config = _patch_processor, _patch_config
    module.load_config, module.load_model = _load_config, _load_model
    module.apply_liger_kernel = _apply_liger_kernel
