"""Hook on `webui.runner`: the panel's values in commands and in saved and loaded arguments, and our own process."""

from functools import wraps
from types import ModuleType
from typing import Any

from ...backbones import registry
from .fields import OPTIONS
from .panel import MEMORY, TAB, elem_id
from .presets import presets, remembered
from .process import choose_process


def given(runner: Any, data: dict[Any, Any]) -> dict[str, Any]:
    """The options that the panel names, by name; those at their defaults are left to whatever else may say them.

    Args:
        runner: The page's.
        data: What a tab sent; tabs without the panel name none.

    Raises:
        ValueError: A field holds what its option cannot be.
    """
    elems = {option: runner.manager.get_elem_by_id(elem_id(option.name)) for option in OPTIONS}
    values = {option: option.read(data[elem]) for option, elem in elems.items() if elem in data}
    return {option.name: value for option, value in values.items() if value != option.default}


def is_ours(runner: Any, data: dict[Any, Any]) -> bool:
    """Whether the template chosen on the page is one of ours."""
    return registry.of_template(data[runner.manager.get_elem_by_id("top.template")]) is not None


def install(module: ModuleType) -> None:
    """Wrap what makes arguments of a page, and a page of arguments."""
    runner_class = module.Runner
    initialize = runner_class._initialize
    parse_train_args, build_config_dict = runner_class._parse_train_args, runner_class._build_config_dict
    load_args, check_output_dir = runner_class.load_args, runner_class.check_output_dir

    @wraps(initialize)
    def _initialize(self, data, do_train, from_preview):
        error = initialize(self, data, do_train, from_preview)
        if not error and do_train and is_ours(self, data):
            try:
                given(self, data)
            except ValueError as err:
                return f"{err}."

        return error

    @wraps(parse_train_args)
    def _parse_train_args(self, data):
        args = parse_train_args(self, data)
        # What the user wrote under "Extra arguments" stands.
        return {**given(self, data), **args} if is_ours(self, data) else args

    @wraps(build_config_dict)
    def _build_config_dict(self, data):
        config = {
            name: value for name, value in build_config_dict(self, data).items() if not name.startswith(f"{TAB}.")
        }
        if is_ours(self, data):
            config |= {elem_id(name): value for name, value in given(self, data).items()}

        return config

    def with_defaults(load):
        @wraps(load)
        def _load(self, *args):
            output = load(self, *args)
            elem = self.manager.get_elem_by_id
            if elem("top.template") in output:
                output = {**{elem(elem_id(option.name)): option.default for option in OPTIONS}, **output}
                # The values that were loaded are to stay, though the template that comes with them is a change.
                sources = (elem("top.template"), elem(elem_id("video_maxlen")), elem("train.video_max_pixels"))
                output[elem(elem_id(MEMORY))] = remembered(presets(*(output[source] for source in sources)))

            return output

        return _load

    runner_class._initialize = _initialize
    runner_class._parse_train_args, runner_class._build_config_dict = _parse_train_args, _build_config_dict
    runner_class.load_args, runner_class.check_output_dir = with_defaults(load_args), with_defaults(check_output_dir)
    module.Popen = choose_process(module.Popen)
