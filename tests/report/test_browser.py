"""The pair browser: the content of the page, and its controls in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.core.errors import OvsegError
from ovseg.report.browser import BACKGROUND_BRIGHTNESS, LONG_SIDE, thumbnail, write_browser
from tests.chromium import CHROMIUM, in_browser
from tests.report.conftest import EVIL, HEIGHT, PAIRS, WIDTH, MadeRun, write_pairs

PROBE = """<script>
const shownCards = () => [...document.querySelectorAll(".card:not([hidden])")];
const names = () => shownCards().map((c) => c.querySelector(".noun").textContent);
const set = (id, value, type) => { byId(id).value = value; byId(id).dispatchEvent(new Event(type)); return names(); };
const result = { lead: byId("lead").textContent, lowest: names() };
for (const order of ["highest", "noun", "small", "large", "margin"]) result[order] = set("sort", order, "change");
result.filtered = set("noun", " CAT ", "input");
result.shown = byId("shown").textContent;
result.nothing = set("noun", "zebra", "input");
result.empty = !byId("empty").hidden;
set("noun", "", "input");
result.high = set("low", 0.25, "input");
set("high", 0.1, "input");
result.crossed = byId("high").value === byId("low").value;
result.marks = [...document.querySelectorAll("mark")].map((m) => m.parentElement.textContent + "|" + m.textContent);
result.options = [...byId("nouns").children].map((o) => o.value + ": " + o.textContent);
result.images = [...document.images].filter((i) => i.naturalWidth > 0 && i.alt).length;
result.title = document.title;
document.querySelector(".noun").click();
setTimeout(() => {
  byId("controls").reset();
  setTimeout(() => {
    result.reset = names();
    document.body.replaceChildren(Object.assign(document.createElement("pre"),
      { id: "result", textContent: btoa(unescape(encodeURIComponent(JSON.stringify(result)))) }));
  }, 50);
});
</script>"""


def read(page: Path) -> Any:
    """The data of a page."""
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S
    )
    assert found
    return json.loads(found[1])


def test_every_pair_has_a_card_with_its_numbers_caption_and_image(made: MadeRun, tmp_path: Path) -> None:
    write_browser(*made, tmp_path / "sub" / "pairs.html", 600)
    data = read(tmp_path / "sub" / "pairs.html")
    cards = {card["key"]: card for card in data["cards"]}
    assert len(cards) == len(PAIRS) == data["total"]
    assert (data["nouns"], data["missing"]) == (5, 0)
    cat = cards["000000002"]
    assert cat["caption"] == ["two ", "cats", " on a mat"]
    assert (cat["noun"], cat["similarity"], cat["margin"], cat["image"]) == ("cat", 0.27, 0.02, "2")
    assert cat["area"] == pytest.approx(400 / (WIDTH * HEIGHT), abs=1e-5)
    assert cards["000000005"]["similarity"] is None
    assert cards["000000005"]["caption"] == ["", "", ""]
    assert "".join(cards["000000004"]["caption"]) == EVIL
    with Image.open(io.BytesIO(base64.b64decode(cat["jpeg"]))) as image:
        assert image.format == "JPEG"
        assert max(image.size) == LONG_SIDE


def test_the_same_run_gives_the_same_bytes(made: MadeRun, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_browser(*made, tmp_path / name, 3)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert len(read(tmp_path / "a.html")["cards"]) == 3


def test_a_page_loads_nothing_and_no_text_can_end_the_data(made: MadeRun, tmp_path: Path) -> None:
    write_browser(*made, tmp_path / "pairs.html", 600)
    text = (tmp_path / "pairs.html").read_text(encoding="utf-8")
    assert not re.search(
        r"""(https?:)?//[\w.]+\.\w|<link|@import|src\s*=\s*["'](?!data:)|url\(|innerHTML|__DATA__""", text
    )
    assert text.count("<script") == text.count("</script>") == 2
    assert "default-src 'none'" in text


def test_a_missing_or_changed_image_is_left_out_and_counted(made: MadeRun, tmp_path: Path) -> None:
    (made[1] / "2.png").unlink()
    Image.new("RGB", (9, 9)).save(made[1] / "3.png")
    write_browser(*made, tmp_path / "pairs.html", 600)
    data = read(tmp_path / "pairs.html")
    assert data["missing"] == 3
    assert {card["image"] for card in data["cards"]} == {"1", "4"}


def test_a_folder_without_tables_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match=str(tmp_path)):
        write_browser(tmp_path, tmp_path, tmp_path / "pairs.html", 10)


def test_a_thumbnail_outlines_the_mask_and_darkens_the_background() -> None:
    mask = np.zeros((300, 400), dtype=bool)
    mask[100:200, 150:250] = True
    small = _opened(thumbnail(np.full((300, 400, 3), 200, np.uint8), mask))
    assert small.shape == (LONG_SIDE * 3 // 4, LONG_SIDE, 3)
    assert abs(small[78, 104].astype(int) - 200).max() < 8
    assert abs(small[10, 10].astype(int) - 200 * BACKGROUND_BRIGHTNESS).max() < 8
    line = small[78, 70:82].astype(int)
    assert (line[:, 0] - line[:, 2]).max() > 120  # a yellow pixel of the inner line
    assert line.sum(axis=1).min() < 3 * 90  # and a dark one of the outer line


@pytest.mark.parametrize("shape", [(3000, 4000), (4, 900), (1, 1)])
def test_a_mask_of_one_pixel_is_visible_at_any_size(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, dtype=bool)
    mask[-1, -1] = True
    small = _opened(thumbnail(np.full((*shape, 3), 128, np.uint8), mask)).astype(int)
    assert small.max() - small.min() > 40 or shape == (1, 1)


def _opened(jpeg: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image)


def test_600_pairs_of_photograph_like_images_stay_below_8_megabytes(made: MadeRun, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for image_id in range(1, 5):  # smooth shapes with noise: larger as JPEG than most photographs
        coarse = Image.fromarray(rng.integers(0, 255, (8, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(int)
        grainy = (smooth + rng.integers(-12, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(grainy).save(made[1] / f"{image_id}.png")
    write_pairs(made[0] / "pairs", [{**PAIRS[i % len(PAIRS)], "pair": i} for i in range(600)])
    _note_sizes(made)
    write_browser(*made, tmp_path / "pairs.html", 600)
    assert len(read(tmp_path / "pairs.html")["cards"]) == 600
    assert (tmp_path / "pairs.html").stat().st_size < 8e6


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _note_sizes(made: MadeRun) -> None:
    """The index's byte sizes are those of the first images: note those of the grainy ones."""
    from ovseg.core import tables

    for path in tables.parts(made[0] / "index"):
        listed = tables.read_part(path, "index").to_pylist()
        rows = [{**row, "size": _size_of(made[1] / row["file"])} for row in listed]
        tables.write_part(path, "index", rows, "f")


@in_browser
def test_sorting_and_filtering_work_in_a_browser(made: MadeRun, tmp_path: Path) -> None:
    (made[1] / "4.png").unlink()
    page = tmp_path / "pairs.html"
    write_browser(*made, page, 600)
    result = run_probe(page)
    assert result["lowest"] == ["dog", "mat", "cat", "bus", "wall"]  # the annotated pair has no similarity
    assert result["highest"] == ["bus", "cat", "mat", "dog", "wall"]
    assert result["margin"] == ["bus", "cat", "mat", "dog", "wall"]
    assert result["noun"] == ["bus", "cat", "dog", "mat", "wall"]
    assert result["filtered"] == ["cat"]
    assert result["nothing"] == []
    assert result["small"][:3] == ["bus", "cat", "dog"]
    assert set(result["large"][:2]) == {"mat", "wall"}
    assert "1 / 5 shown" in result["shown"]
    assert result["empty"]
    assert sorted(result["high"]) == ["bus", "cat"]
    assert result["crossed"]
    assert result["reset"] == result["lowest"]
    assert result["images"] == 5
    assert f"{EVIL}|dog" in result["marks"]
    assert "two cats on a mat|cats" in result["marks"]
    assert result["title"] == "Mined pairs"  # the caption's script did not run
    assert "cat: 1 pair" in result["options"]
    assert "6 pairs of 5 nouns" in result["lead"]
    assert "1 more is left out" in result["lead"]


def run_probe(page: Path) -> Any:
    """What a script sees that uses the page's controls, in a headless browser."""
    probed = page.with_name("probed.html")
    text = page.read_text(encoding="utf-8")
    probed.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    assert CHROMIUM
    profile = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            profile,
            "--virtual-time-budget=5000",
            "--dump-dom",
            probed.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout)
    assert found, (done.stdout[-2000:], done.stderr[-2000:])
    return json.loads(base64.b64decode(found[1]))
