"""Files that nobody wants later: gone when their process ends, and at the next start when it was killed."""

import subprocess
import sys

from spacevllm_plugin.data.scratch import Scratch


CODE = """
import sys, time
from pathlib import Path
from spacevllm_plugin.data.scratch import Scratch
scratch = Scratch(Path(sys.argv[1]))
(scratch.folder("somebody") / "file").write_text("x")
print(scratch.path, flush=True)
sys.stdin.read()
"""


def start(folder):
    command = [sys.executable, "-c", CODE, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def names(folder):
    return {str(path) for path in folder.iterdir()}


def test_folders_go_with_their_process_or_at_the_next_start(tmp_path):
    other = tmp_path / "spacevllm_other"
    other.mkdir()
    killed, left = start(tmp_path)
    living, used = start(tmp_path)
    killed.kill()
    killed.wait()
    assert names(tmp_path) == {left, used, str(other)}

    own = Scratch(tmp_path)
    assert names(tmp_path) == {used, str(own.path), str(other)}
    living.communicate("", timeout=60)
    assert names(tmp_path) == {str(own.path), str(other)}
    own.close()
    assert names(tmp_path) == {str(other)}


def test_owners_have_folders_of_their_own(tmp_path):
    scratch = Scratch(tmp_path)
    first, second = scratch.folder("a"), scratch.folder("b")
    assert first.stat().st_dev and first != scratch.folder("a") and first.parent != second.parent
    assert scratch.path.stat().st_mode & 0o077 == 0
    scratch.forget("a")
    assert not first.exists() and second.exists()
    scratch.close()
