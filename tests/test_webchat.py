"""The page of `webchat` with another model: component by component the one that LLaMA-Factory makes without us."""

import json
import os
import re
import subprocess
import sys

from spacevllm_plugin.backbones.tiny import make_tiny


CODE = """
import json, sys
from llamafactory.webui.interface import create_web_demo
sys.argv[1:] = ["--model_name_or_path", sys.argv[1], "--template", sys.argv[2], "--infer_dtype", "float32"]
page = create_web_demo().get_config_file()
print("PAGE", json.dumps({name: page[name] for name in ("components", "layout", "dependencies", "css")}, default=str))
"""


def page(folder, template, **environment):
    done = subprocess.run(
        [sys.executable, "-c", CODE, "base", template],
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    # Functions are named by where they lie in memory.
    return json.loads(re.sub(r" at 0x[0-9a-f]+", "", done.stdout.rpartition("PAGE ")[2]))


def test_the_page_of_another_template_is_the_stock_one(tmp_path):
    make_tiny("qwen3_vl", tmp_path / "base", merge_size=1)
    stock = page(tmp_path, "qwen3_vl", SPACEVLLM_DISABLE="1")
    assert page(tmp_path, "qwen3_vl") == stock
    assert page(tmp_path, "spacevllm_qwen3_vl") != stock
