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


def read_tested(names):
    """Exact versions that the suite last ran on, from the lock: `torch` -> `torch==2.14.1`."""
    with open(os.path.join("constraints", "tested.txt"), encoding="utf-8") as file:
        lock = dict(line.strip().split("==") for line in file if "==" in line)

    return [f"{name}=={lock[name]}" for name in names]


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
    package_data={
        "spacevllm_plugin.demo": ["page.css", "page.js"],
        "spacevllm_plugin.scoreboard": ["published.json"],
    },
    # Lower bounds are what constraints/oldest.txt ran with, upper bounds end where nothing newer was seen to run;
    # `make newest` tries what lies beyond them.
    install_requires=[
        # What we hook there is checked name by name; 0.10 has not been seen.
        "llamafactory>=0.9.5,<0.10",
        # 5.5.0: LLaMA-Factory's Qwen3-VL needs it. 5.6.0 breaks flash-attention. 5.8.0: the newest that LLaMA-Factory's
        # main branch allows; its release 0.9.5 ends at 5.6.0 itself.
        "transformers>=5.5.0,!=5.6.0,<=5.8.0",
        # These three are built for each other, and LLaMA-Factory imports them all. torch 2.15 is built with CUDA 13.2 and
        # the last torchaudio, 2.11, with 13.0: together they do not import. LLaMA-Factory refuses torch 2.9 with Conv3D.
        "torch>=2.6,!=2.9.*,<2.15",
        "torchvision>=0.21,<0.29.2",  # 0.29.2 is built with CUDA 13.2, for torch 2.15
        "torchaudio>=2.6,<2.12",
        # 14.1 has `av.stream.Disposition`; LLaMA-Factory ends at 16.0.0.
        "av>=14.1,<=16.0.0",
        # 10.1 has a font of any size.
        "pillow>=10.1,<13",
        # The rest ends before its next major release, of which none has been seen.
        "filelock>=3.13,<5",
        "httpx>=0.24.1,<1",
        "ijson>=3.2.3,<4",
        "matplotlib>=3.7,<4",
        "numpy>=1.26,<3",
        "packaging>=20,<27",
        "pyarrow>=15,<27",
        "pydantic>=2.7,<3",
        "pyyaml>=6.0.1,<7",
        "requests>=2.32.2,<3",
        "tqdm>=4.66.3,<5",
        "urllib3>=1.26,<3",
    ],
    # None of these can pull torch or transformers out of the range above: pip resolves both together.
    extras_require={
        # LLaMA-Factory's range.
        "deepspeed": ["deepspeed>=0.10.0,<=0.18.4"],
        # Built on the spot against the torch that is there; 3 is for Hopper alone and has other names.
        "flash-attn": ["flash-attn>=2.5,<3"],
        # Its last release was in 2021.
        "decord": ["decord>=0.6,<0.7"],
        "torchcodec": ["torchcodec>=0.2,<0.18"],
        "liger": ["liger-kernel>=0.5.5,<0.9"],
        "qlora": ["bitsandbytes>=0.43.0,<0.51"],
        "lmms-eval": ["lmms-eval>=0.7.3,<0.8"],
        # Plain Ray: its `default` adds a dashboard, whose agent keeps nodes from starting on a busy machine. The lower bound
        # is `distributed.cluster.OLDEST`; 2.64 drops the arguments that limit restarts.
        "ray": ["ray>=2.55.1,<2.64"],
        # Addresses s3:// and gs://; https:// and hf:// need nothing more. Their releases go with fsspec's, which datasets pins.
        "s3": ["s3fs>=2024.2"],
        "gcs": ["gcsfs>=2024.2"],
        # LLaMA-Factory's own text scores, without which it refuses `predict_with_generate`.
        "metrics": ["jieba", "nltk", "rouge-chinese"],
        "dev": [
            *("bitsandbytes", "hypothesis", "jieba", "nltk", "pytest", "pytest-xdist", "rouge-chinese", "ruff"),
            *("moto[server]", "openai", "playwright", "psutil", "pycocotools", "s3fs", "scikit-video"),
        ],
        # The set that the suite last ran on, for where constraints/tested.txt is not at hand; `doctor` reads it too.
        "tested": read_tested(("torch", "torchvision", "torchaudio", "transformers", "llamafactory", "av")),
    },
    entry_points={
        "console_scripts": ["spacevllm-cli = spacevllm_plugin.cli.main:main"],
        "llamafactory.plugins": ["spacevllm = spacevllm_plugin:register"],
        "lmms_eval.models": ["spacevllm = spacevllm_plugin.lmms_eval:manifest"],
    },
    cmdclass={"build_py": BuildWithPth, "editable_wheel": EditableWithPth},
)
