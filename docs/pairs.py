"""Makes docs/pairs.png, ten mined pairs from the least to the most similar, from reports/pairs.html.

python -m docs.pairs     needs Chromium
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
PAGE, TARGET = ROOT / "reports" / "pairs.html", ROOT / "docs" / "pairs.png"
WIDTH, HEIGHT = 1240, 760
CHOOSE = """
<style>header, .bar { display: none } main { padding: 16px } .card:not(.chosen) { display: none }
  ul#cards { grid-template-columns: repeat(5, 1fr); margin: 0 } .body .origin { display: none }</style>
<script>
  const sorted = ordered("worst").filter((card) => card.similarity !== null), nouns_shown = new Set();
  for (let i = 0; i < 10; i++) {
    const rest = sorted.slice(Math.floor((i + 0.5) / 10 * sorted.length));
    const card = rest.find((one) => !nouns_shown.has(one.noun)) || rest[0];
    nouns_shown.add(card.noun);
    elements.get(card).classList.add("chosen");
  }
</script>
"""
"""One pair at each tenth of the similarities in the browser, each of another noun. The page's own script defines the names."""


def main() -> None:
    """Take the screenshot."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("Chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "pairs.html"
        page.write_text(PAGE.read_text(encoding="utf-8").replace("</body>", f"{CHOOSE}</body>"), encoding="utf-8")
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        size = f"--window-size={WIDTH},{HEIGHT}"
        subprocess.run(
            [browser, *options, size, f"--screenshot={TARGET}", page.as_uri()], check=True, capture_output=True
        )
    with Image.open(TARGET) as image:
        image.convert("RGB").quantize(256).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
