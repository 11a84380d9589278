"""What the plugin costs a Python process that has nothing to do with it: the bootstrap's own milliseconds.

`python benchmarks/startup.py` starts the interpreter in turn with the plugin's hooks and with `SPACEVLLM_DISABLE=1`
and without the `.pth` file at all (`-S` style), and prints the median of each and of the import itself.
"""

import os
import statistics
import subprocess
import sys
import time


RUNS = 40
IMPORT = "import time; t = time.perf_counter(); import spacevllm_plugin.bootstrap as b; b.install(); print(time.perf_counter() - t)"


def start(code: str, *options: str, **environment: str) -> tuple[float, str]:
    """Seconds of one interpreter, and what it printed."""
    begin = time.perf_counter()
    result = subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return time.perf_counter() - begin, result.stdout.strip()


def main() -> None:
    """Measure and print."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    hooked, disabled, own = [], [], []
    for _ in range(RUNS):
        hooked.append(start("pass")[0])
        disabled.append(start("pass", SPACEVLLM_DISABLE="1")[0])
        # Isolated from site-packages, so that the import is the first one.
        own.append(float(start(f"import sys; sys.path.insert(0, {package!r}); {IMPORT}", "-S")[1]))

    print(f"interpreter, plugin hooked    {1e3 * statistics.median(hooked):7.2f} ms")
    print(f"interpreter, plugin disabled  {1e3 * statistics.median(disabled):7.2f} ms")
    print(f"importing and installing      {1e3 * statistics.median(own):7.2f} ms")


if __name__ == "__main__":
    main()
