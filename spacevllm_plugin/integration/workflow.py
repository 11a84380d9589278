"""Hook on `train.sft.workflow`: our collator and trainer where the template is ours, LLaMA-Factory's elsewhere."""

from functools import partial
from types import ModuleType

from .collator import grounding_collator
from .loss_parts import plot_with_parts
from .template import is_ours
from .trainer import grounding_trainer


def install(module: ModuleType) -> None:
    """Replace the two names by functions that choose; let pictures of the loss show its parts, too."""
    stock_collator, stock_trainer = module.SFTDataCollatorWith4DAttentionMask, module.CustomSeq2SeqTrainer
    our_collator, our_trainer = grounding_collator(stock_collator), grounding_trainer(stock_trainer)

    def choose_collator(template, **kwargs):
        collator_class = our_collator if is_ours(template) else stock_collator
        return collator_class(template=template, **kwargs)

    def choose_trainer(data_collator, **kwargs):
        trainer_class = our_trainer if isinstance(data_collator, our_collator) else stock_trainer
        return trainer_class(data_collator=data_collator, **kwargs)

    module.SFTDataCollatorWith4DAttentionMask = choose_collator
    module.CustomSeq2SeqTrainer = choose_trainer
    module.plot_loss = partial(plot_with_parts, module.plot_loss)
