"""Hook on `webui.common`: an option of ours that is switched off stays in the command."""

from functools import wraps
from types import ModuleType

from .fields import OPTIONS


def install(module: ModuleType) -> None:
    """Wrap what LLaMA-Factory leaves out of commands: all that is false, as if that were every option's default."""
    clean_cmd = module._clean_cmd

    @wraps(clean_cmd)
    def _clean_cmd(args):
        switched_off = {option.name for option in OPTIONS if args.get(option.name) is False}
        return clean_cmd(args) | dict.fromkeys(switched_off, False)

    module._clean_cmd = _clean_cmd
