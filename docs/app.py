"""Makes docs/app.png from a run of the demo: one drawn image, segmented by the base CLIP and by the adapted one.

python -m docs.app     needs Chromium, and models/, reports/ and data/ of the run in this folder
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
TARGET, IMAGES, TRUTH = ROOT / "docs" / "app.png", Path("data/demo/val/images"), Path("data/demo/val/truth.json")
WIDTH, HEIGHT = 1180, 820
SHOWN = ("bird", "ladder")
WORDS = "bird, ladder, snow, wood, fish, tree, bottle, lamp"
COMMAND = [sys.executable, "-m", "ovseg.cli.app", "app", "--examples", str(IMAGES), "--names", WORDS]
COMMAND += ["--run", "data", "--images", "data/demo/train/images"]


def image_with(names: tuple[str, ...]) -> Path:
    """Return the first held-out image that has all of some things."""
    truth: dict[str, Any] = json.loads(TRUTH.read_text(encoding="utf-8"))
    wanted = {category["id"] for category in truth["categories"] if category["name"] in names}
    files: dict[int, str] = {image["id"]: image["file_name"] for image in truth["images"]}
    found: dict[int, set[int]] = defaultdict(set)
    for annotation in truth["annotations"]:
        found[annotation["image_id"]].add(annotation["category_id"])
        if wanted <= found[annotation["image_id"]]:
            return IMAGES / files[annotation["image_id"]]
    sys.exit(f"no image of {TRUTH} has {', '.join(names)}")


def main() -> None:
    """Start the app, ask it, and take the screenshot."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("Chromium is not installed")
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as app:
        assert app.stdout is not None
        try:
            address = next(found[0] for line in app.stdout if (found := re.search(r"http://\S+", line)))
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
                take(chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT}), address)
                chromium.close()
        finally:
            app.terminate()
    with Image.open(TARGET) as image:
        image.convert("RGB").quantize(256).save(TARGET, optimize=True)


def take(page: Any, address: str) -> None:
    """Segment the image, click a region of it, and write the screenshot."""
    page.goto(address)
    page.locator("input[type=file]").first.set_input_files(image_with(SHOWN))
    page.wait_for_selector(".view canvas")
    page.locator(".view canvas").first.click()
    page.wait_for_selector("table.region")
    page.mouse.move(0, 0)
    page.screenshot(path=TARGET)


if __name__ == "__main__":
    main()
