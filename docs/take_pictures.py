"""Takes the pictures of the demo page in `docs/pictures/`.

`python docs/take_pictures.py URL` while `spacevllm-cli demo --model outputs/quickstart/merged --corrections c/rows.jsonl` runs
at URL; needs playwright and a Chromium (`SPACEVLLM_CHROMIUM`, or `chromium` on the PATH).
"""

import os
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright


HERE = Path(__file__).parent / "pictures"
PICTURES = {"demo_light.png": (1400, 1500, "light"), "demo_phone_dark.png": (390, 1500, "dark")}


def main(url: str) -> None:
    """Take them all."""
    HERE.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        program = os.environ.get("SPACEVLLM_CHROMIUM") or shutil.which("chromium")
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for name, (width, height, scheme) in PICTURES.items():
            page = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()
            page.set_default_timeout(240_000)
            page.goto(url)
            page.get_by_role("button", name="Video 1").click()
            page.get_by_text("Example, video 1").wait_for()
            page.locator("#sv-find").click()
            page.locator(".sv-table").wait_for()
            page.wait_for_function("document.querySelector('#sv-player video')?.videoWidth > 0")
            page.wait_for_timeout(3000)
            page.evaluate("window.scrollTo(0, 0)")
            page.screenshot(path=HERE / name)
            # Few colours are enough for a page, and a quarter of the bytes.
            Image.open(HERE / name).convert("RGB").quantize(192).save(HERE / name, optimize=True)

        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
