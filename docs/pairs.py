"""Makes docs/pairs.png from reports/: ten mined pairs, one for each tenth of all pairs from the least to the most similar.

python -m docs.pairs     needs Chromium
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
REPORTS, TARGET = ROOT / "reports", ROOT / "docs" / "pairs.png"
PAGE, SIMILARITIES = REPORTS / "pairs.html", REPORTS / "plots" / "similarity.tsv"
WIDTH, HEIGHT = 1240, 832
NUM_PAIRS = 10
CHOOSE = """
<style>header, .bar { display: none } main { padding: 16px } .card:not(.chosen) { display: none }
  ul#cards { grid-template-columns: repeat(5, 1fr); margin: 0 }</style>
<script>
  const distance = (card, wanted) => Math.abs(card.similarity - wanted), shown = [];
  for (const wanted of WANTED) {
    const others = data.cards.filter((card) => card.similarity !== null && !shown.some((one) => one.noun === card.noun));
    const card = others.sort((a, b) => distance(a, wanted) - distance(b, wanted))[0];
    shown.push(card);
    document.getElementById("cards").append(elements.get(card));
    elements.get(card).classList.add("chosen");
  }
</script>
"""
"""The pair in the browser that is nearest to each similarity, each of another noun. The page's own script defines the names."""


def quantiles(path: Path, number: int) -> list[float]:
    """Return `number` similarities that divide all pairs of a run into equal parts, the middle of each part.

    Args:
        path: similarity.tsv, see `report.plots`. The browser has fewer pairs, spread over the similarities instead.
        number: the number of similarities.
    """
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [(float(row["similarity"]), int(row["pairs"])) for row in csv.DictReader(stream, delimiter="\t")]
    similarity, pairs = np.array(rows).T
    wanted = (np.arange(number) + 0.5) / number * pairs.sum()
    return [float(value) for value in similarity[np.searchsorted(pairs.cumsum(), wanted)]]


def main() -> None:
    """Take the screenshot."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("Chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "pairs.html"
        choose = CHOOSE.replace("WANTED", json.dumps(quantiles(SIMILARITIES, NUM_PAIRS)))
        page.write_text(PAGE.read_text(encoding="utf-8").replace("</body>", f"{choose}</body>"), encoding="utf-8")
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        size = f"--window-size={WIDTH},{HEIGHT}"
        subprocess.run(
            [browser, *options, size, f"--screenshot={TARGET}", page.as_uri()], check=True, capture_output=True
        )
    with Image.open(TARGET) as image:
        image.convert("RGB").quantize(256).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
