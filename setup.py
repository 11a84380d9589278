"""Package description; the `.pth` file that loads the plugin needs two small build commands of its own."""

import os
import re
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel


PTH = "spacevllm_plugin_hooks.pth"


class BuildWithPth(build_py):
    """Puts the `.pth` file beside the package: in wheels, and so in `pip install .`."""

    def run(self):
        super().run()
        if not self.editable_mode:
            shutil.copy(PTH, os.path.join(self.build_lib, PTH))

    def get_outputs(self, include_bytecode=1):
        outputs = super().get_outputs(include_bytecode)
        return outputs if self.editable_mode else [*outputs, os.path.join(self.build_lib, PTH)]


class EditableWithPth(editable_wheel):
    """Puts the `.pth` file into the editable wheel, which takes nothing from `build_py`."""

    def _select_strategy(self, *args, **kwargs):
        strategy = super()._select_strategy(*args, **kwargs)

        class WithPth(type(strategy)):
            def __call__(self, wheel, files, mapping):
                super().__call__(wheel, files, mapping)
                with open(PTH, encoding="utf-8") as file:
                    wheel.writestr(PTH, file.read())

        strategy.__class__ = WithPth
        return strategy


def read_version():
    with open(os.path.join("spacevllm_plugin", "__init__.py"), encoding="utf-8") as file:
        return re.search(r'__version__ = "(.+?)"', file.read()).group(1)


def read_readme():
    with open("README.md", encoding="utf-8") as file:
        return file.read()


setup(
    name="spacevllm_plugin",
    version=read_version(),
    description="SpaceVLLM, spatio-temporal video grounding, as a plugin for LLaMA-Factory",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["spacevllm_plugin", "spacevllm_plugin.*"]),
    package_data={"spacevllm_plugin.benchmark": ["published.json"]},
    install_requires=[
        "llamafactory>=0.9.5,<0.10",
        # LLaMA-Factory's own ranges, less the releases known to break it.
        "transformers>=5.5.0,!=5.6.0",
        "torch>=2.6,!=2.9.*",
        "torchvision",
        "av",
        "filelock",
        "httpx",
        "ijson",
        "matplotlib",
        "numpy",
        "pillow",
        "pyarrow",
        "pydantic>=2",
        "pyyaml",
        "tqdm",
    ],
    extras_require={
        "deepspeed": ["deepspeed>=0.10.0,<=0.18.4"],
        "flash-attn": ["flash-attn"],
        "decord": ["decord"],
        "torchcodec": ["torchcodec"],
        "liger": ["liger-kernel>=0.5.5"],
        "qlora": ["bitsandbytes>=0.43.0"],
        "lmms-eval": ["lmms-eval>=0.7.3"],
        # LLaMA-Factory's own text scores, without which it refuses `predict_with_generate`.
        "metrics": ["jieba", "nltk", "rouge-chinese"],
        "dev": ["bitsandbytes", "hypothesis", "jieba", "nltk", "pytest", "rouge-chinese", "ruff", "scikit-video"],
    },
    entry_points={
        "console_scripts": ["spacevllm-cli = spacevllm_plugin.cli.main:main"],
        "llamafactory.plugins": ["spacevllm = spacevllm_plugin:register"],
        "lmms_eval.models": ["spacevllm = spacevllm_plugin.inference.lmms_eval:manifest"],
    },
    cmdclass={"build_py": BuildWithPth, "editable_wheel": EditableWithPth},
)
