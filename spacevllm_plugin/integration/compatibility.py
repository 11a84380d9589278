"""Checks, from source and before anything is patched, that LLaMA-Factory has what we hook."""

import ast
import inspect
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from packaging.specifiers import SpecifierSet


SUPPORTED = SpecifierSet(">=0.9.5,<0.10")

# Module -> symbol -> the parameters we rely on, in order; None where any form will do.
EXPECTED: dict[str, dict[str, list[str] | None]] = {
    "llamafactory.extras.constants": {
        "MROPE_MODELS": None,
        "register_model_group": ["models", "template", "multimodal"],
    },
    "llamafactory.hparams.parser": {
        "_TRAIN_ARGS": None,
        "_INFER_ARGS": None,
        "ModelArguments": None,
        "_parse_args": ["parser", "args", "allow_extra_keys"],
        "read_args": ["args"],
        "_verify_model_args": ["model_args", "data_args", "finetuning_args"],
    },
    "llamafactory.data.mm_plugin": {"register_mm_plugin": ["name", "plugin_class"], "BasePlugin": None},
    "llamafactory.data.template": {"register_template": None, "Template": None, "ReasoningTemplate": None},
    "llamafactory.data.converter": {"register_dataset_converter": ["name", "dataset_converter"]},
    "llamafactory.data.loader": {
        "_load_single_dataset": ["dataset_attr", "model_args", "data_args", "training_args"],
        "load_dataset": None,
        "split_dataset": None,
        "align_dataset": None,
        "_get_dataset_processor": ["data_args", "stage", "template", "tokenizer", "processor", "do_generate"],
        "_get_preprocessed_dataset": [
            *("dataset", "data_args", "training_args", "stage", "template", "tokenizer", "processor", "is_eval"),
        ],
        "get_dataset": [
            *("template", "model_args", "data_args", "training_args", "stage", "tokenizer", "processor"),
        ],
    },
    "llamafactory.model.model_utils.visual": {
        "_register_composite_model": [
            *("model_type", "projector_keys", "vision_model_keys", "language_model_keys", "lora_conflict_keys"),
        ],
    },
    "llamafactory.model.loader": {
        "load_config": ["model_args"],
        "load_model": ["tokenizer", "model_args", "finetuning_args", "is_trainable", "add_valuehead"],
        "patch_processor": None,
        "apply_liger_kernel": None,
        "patch_config": None,
    },
    "llamafactory.train.sft.workflow": {
        "SFTDataCollatorWith4DAttentionMask": None,
        "CustomSeq2SeqTrainer": None,
        "plot_loss": None,
    },
    "llamafactory.chat.hf_engine": {
        "Response": None,
        "HuggingfaceEngine": None,
        "HuggingfaceEngine.chat": ["self", "messages", "system", "tools", "images", "videos", "audios"],
    },
    "llamafactory.chat.chat_model": {"ChatModel": None, "run_chat": []},
    "llamafactory.api.app": {
        "create_app": ["chat_model"],
        "EventSourceResponse": None,
        "ChatCompletionRequest": None,
        "ChatCompletionResponse": None,
        "create_chat_completion_response": None,
        "create_stream_chat_completion_response": None,
    },
    "llamafactory.webui.chatter": {"WebChatModel": None},
    "llamafactory.webui.components.chatbot": {"create_chat_box": ["engine", "visible"]},
    "llamafactory.webui.components.infer": {"create_infer_tab": ["engine"]},
    "llamafactory.webui.locales": {"LOCALES": None},
    "llamafactory.webui.common": {"_clean_cmd": ["args"]},
    "llamafactory.webui.manager": {"Manager.get_base_elems": ["self"]},
    "llamafactory.webui.runner": {
        "Popen": None,
        "Runner._initialize": ["self", "data", "do_train", "from_preview"],
        "Runner._parse_train_args": ["self", "data"],
        "Runner._build_config_dict": ["self", "data"],
        "Runner.load_args": ["self", "lang", "config_path"],
        "Runner.check_output_dir": ["self", "lang", "model_name", "finetuning_type", "output_dir"],
    },
    "llamafactory.webui.components.data": {
        "DATA_CONFIG": None,
        "PAGE_SIZE": None,
        "get_preview": ["dataset_dir", "dataset", "page_index"],
        "create_preview_box": ["dataset_dir", "dataset"],
    },
    "llamafactory.webui.components.train": {"create_train_tab": ["engine"]},
    "llamafactory.webui.components.eval": {"create_eval_tab": ["engine"]},
    "llamafactory.webui.control": {"gen_loss_plot": None},
    "llamafactory.train.callbacks": {
        "LogCallback.on_log": ["self", "args", "state", "control"],
        "LogCallback._write_log": ["self", "output_dir", "logs"],
    },
}

# Module -> function -> parts of its source: what a hook puts right as long as LLaMA-Factory does it so. The hook of a
# module whose functions are others is left out, without a word.
MENDED: dict[str, dict[str, tuple[str, ...]]] = {
    "llamafactory.train.tuner": {
        "_ray_training_function": ("(ray_args:", "get_ray_head_node_ip()", "get_placement_group(total_devices)"),
        "get_placement_group": ('bundle = {"CPU": 10}',),
        "get_ray_remote_config_for_worker": ("placement_group:", "bundle_idx:", "rank:", "env:", '"num_cpus": 10'),
    },
}


def still_does(module: ModuleType) -> bool:
    """Whether the functions of `MENDED` in an imported module of LLaMA-Factory are those that we know."""
    return all(
        hasattr(module, name) and all(part in inspect.getsource(getattr(module, name)) for part in parts)
        for name, parts in MENDED[module.__name__].items()
    )


def _symbols(source: str) -> dict[str, list[str] | None]:
    """Names of a module and, behind a dot, of its classes, with the parameters of functions."""
    found: dict[str, list[str] | None] = {}

    def visit(body: list[ast.stmt], prefix: str = "") -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[prefix + node.name] = [arg.arg for arg in node.args.args]
            elif isinstance(node, ast.ClassDef):
                found[prefix + node.name] = None
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign):
                found.update({target.id: None for target in node.targets if isinstance(target, ast.Name)})
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = None
            elif isinstance(node, ast.ImportFrom):
                found.update({alias.asname or alias.name: None for alias in node.names})
            elif isinstance(node, ast.If):
                visit(node.body + node.orelse, prefix)

    visit(ast.parse(source).body)
    return found


def find_problem() -> str | None:
    """One line saying why this LLaMA-Factory cannot be hooked, or None."""
    installed = version("llamafactory")
    hint = f"found LLaMA-Factory {installed}, supported is {SUPPORTED}"
    if not SUPPORTED.contains(installed, prereleases=True):
        return f"{hint}."

    root = Path(find_spec("llamafactory").submodule_search_locations[0])
    for module, symbols in EXPECTED.items():
        path = root.joinpath(*module.split(".")[1:]).with_suffix(".py")
        found = _symbols(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for name, parameters in symbols.items():
            if name not in found:
                return f"`{module}.{name}` does not exist; {hint}."

            if parameters is not None and found[name] != parameters:
                return f"`{module}.{name}` takes {found[name]} instead of {parameters}; {hint}."

    return None
