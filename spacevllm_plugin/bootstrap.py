"""Loaded by every Python process of the environment through a `.pth` file; costs next to nothing there.

It only remembers what to do when a module of LLaMA-Factory is imported. Neither torch nor transformers nor
LLaMA-Factory is imported here. `SPACEVLLM_DISABLE=1` turns the plugin off.
"""

import os
import sys


# LLaMA-Factory module -> module of `integration` whose `install(module)` runs right after it is imported.
TOUCH_POINTS = {
    "llamafactory.extras.constants": "models",
    "llamafactory.hparams.parser": "arguments",
    "llamafactory.data.mm_plugin": "mm_plugin",
    "llamafactory.data.template": "template",
    "llamafactory.data.converter": "converter",
    "llamafactory.data.loader": "dataset",
    "llamafactory.model.model_utils.visual": "composite",
    "llamafactory.model.loader": "loader",
    "llamafactory.train.sft.workflow": "workflow",
    "llamafactory.train.tuner": "ray",
    "llamafactory.chat.hf_engine": "chat",
    "llamafactory.chat.chat_model": "terminal",
    "llamafactory.api.app": "api",
    "llamafactory.webui.chatter": "webui.chatter",
    "llamafactory.webui.components.chatbot": "webui.chat_box",
    "llamafactory.webui.components.infer": "webui.chat_tab",
    "llamafactory.webui.locales": "webui.words",
    "llamafactory.webui.common": "webui.command",
    "llamafactory.webui.runner": "webui.runner",
    "llamafactory.webui.components.data": "webui.preview",
    "llamafactory.webui.components.train": "webui.panel",
    "llamafactory.webui.components.eval": "webui.evaluation",
    "llamafactory.webui.control": "webui.plot",
}


# Where a broken torch, torchvision or torchaudio shows: our touch points, and LLaMA-Factory's first import of torch.
GUARDED = {*TOUCH_POINTS, "llamafactory.extras.misc"}
# Commands whose user wants one line and no stack trace.
COMMANDS = ("llamafactory-cli", "lmf", "launcher")


class _Finder:
    """Lets the ordinary finders find a touch point, and adds our step behind its execution.

    (wrapt's post-import hooks do the same, but importing wrapt in every Python process costs more than all of this.)
    """

    def find_spec(self, name, path=None, target=None):
        if name not in GUARDED:
            return None

        # The others are asked one by one: asking the import system would come back here, and threads would meet.
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)

        return spec


class _Loader:
    def __init__(self, loader) -> None:
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module) -> None:
        try:
            self._loader.exec_module(module)
        except Exception as err:
            _blame(err)
            raise

        module.__loader__ = module.__spec__.loader = self._loader
        if module.__name__ in TOUCH_POINTS:
            _run_hook(module.__name__)

    def __getattr__(self, name):
        return getattr(self._loader, name)


def _blame(err: Exception) -> None:
    """LLaMA-Factory cannot be imported: say so in one line where a package below it does not work."""
    from .trials import BrokenEnvironment, explain

    line = explain(err)
    if line is not None and os.path.splitext(os.path.basename(sys.argv[0]))[0] in COMMANDS:
        raise SystemExit(line) from None

    if line is not None:
        raise BrokenEnvironment(line) from err


def _run_hook(name: str) -> None:
    import importlib

    integration = importlib.import_module("spacevllm_plugin.integration")
    if integration.is_supported():
        hook = importlib.import_module(f"spacevllm_plugin.integration.{TOUCH_POINTS[name]}")
        hook.install(sys.modules[name])


def install() -> None:
    """Register the hooks; twice does no harm. Modules that are imported already are hooked at once."""
    if os.environ.get("SPACEVLLM_DISABLE") == "1" or any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return

    sys.meta_path.insert(0, _Finder())
    for name in TOUCH_POINTS:
        if name in sys.modules:
            _run_hook(name)
