"""Hook on `data.template`: one chat template per backbone; choosing one is what turns SpaceVLLM on."""

from types import ModuleType
from typing import Any

from ..backbones import registry
from ..data.prompt_rules import check_text
from ..modeling.configuration import STAQ_TOKEN
from .mm_plugin import PLUGIN_NAME


def is_ours(template: Any) -> bool:
    """Whether a template object is one of ours."""
    return hasattr(template.mm_plugin, "backbone")


def install(module: ModuleType) -> None:
    """Register the templates."""

    class SpaceVLLMTemplateMixin:
        """Gives the tokenizer the placeholder token, and checks texts of its own."""

        def fix_special_tokens(self, tokenizer) -> None:
            super().fix_special_tokens(tokenizer)
            if STAQ_TOKEN not in tokenizer.get_vocab():
                tokenizer.add_tokens([STAQ_TOKEN], special_tokens=True)

        def _encode(self, tokenizer, messages, system, tools):
            # The messages were checked before they got their visual tokens.
            check_text(system or "", "system")
            check_text(tools or "", "tools")
            return super()._encode(tokenizer, messages, system, tools)

    class SpaceVLLMTemplate(SpaceVLLMTemplateMixin, module.Template):
        """Of backbones that do not think."""

    class SpaceVLLMReasoningTemplate(SpaceVLLMTemplateMixin, module.ReasoningTemplate):
        """Puts an empty thought before answers that come without one: as `enable_thinking` says, asked or learned."""

    for spec in registry.usable():
        module.register_template(
            name=spec.template,
            format_user=module.StringFormatter(
                slots=["<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n"]
            ),
            format_assistant=module.StringFormatter(slots=["{{content}}<|im_end|>\n"]),
            format_system=module.StringFormatter(slots=["<|im_start|>system\n{{content}}<|im_end|>\n"]),
            default_system=spec.default_system,
            stop_words=["<|im_end|>"],
            replace_eos=True,
            mm_plugin=module.get_mm_plugin(
                name=PLUGIN_NAME,
                image_token=spec.image_token,
                video_token=spec.video_token,
                backbone=spec.name,
            ),
            thought_words=spec.thought_words,
            template_class=SpaceVLLMReasoningTemplate if spec.thought_words else SpaceVLLMTemplate,
        )
