"""The page in a real server: what it answers, what it refuses, and how it looks to a person in a real browser."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from ovseg.app.answers import Answers
from ovseg.app.pair_pages import PairPages
from ovseg.core.errors import OvsegError
from ovseg.mining.wrong_pairs import WrongPair, read_wrong_pairs
from ovseg.segmentation.segmenter import Segmenter
from tests.app.conftest import png
from tests.chromium import in_browser
from tests.conftest import ROOT, Mined

pytest.importorskip("gradio", reason="the extra `app` is not installed")

from ovseg.app.segment_tab import Start
from ovseg.app.server import LOOPBACK, serve


@dataclass(frozen=True)
class Table:
    """The table of a region on the page.

    Attributes:
        caption: the model, and the region's percentage of the image.
        rows: word, score of the ensemble, of CLIP and of the proposal network.
    """

    caption: str
    rows: list[list[str]]

    @property
    def area(self) -> float:
        """The region's percentage of the image."""
        return float(self.caption.split(":")[1].split()[0])

    def column(self, number: int) -> list[str]:
        """The texts of a column, from 0."""
        return [row[number] for row in self.rows]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "example.png"
    path.write_bytes(png(3))
    return path


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks") / "wrong.csv"


@pytest.fixture(scope="module")
def address(segmenters: dict[str, Segmenter], mined: Mined, example: Path, marks: Path) -> Iterator[str]:
    answers = Answers(segmenters)
    pages = PairPages(mined.folder, mined.coco.images, marks)
    start = Start("star, key, boat", weight=0.7, threshold=0.5, examples=[example])
    with serve(answers, start, pages) as address:
        yield address


def uploaded(address: str, name: str, data: bytes) -> dict[str, Any]:
    """An uploaded file as the page hands it to a function."""
    files = {"files": (name, data)}
    path = requests.post(f"{address}gradio_api/upload", files=files, timeout=20).json()[0]
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def call(address: str, name: str, *values: Any) -> str:
    """The text that a function of the page answers with."""
    url = f"{address}gradio_api/call/{name}"
    event = requests.post(url, json={"data": values}, timeout=20).json()["event_id"]
    text: str = requests.get(f"{url}/{event}", timeout=30).text
    return text


def test_an_uploaded_image_is_answered_and_a_broken_one_explained(address: str) -> None:
    answer = call(address, "segment", uploaded(address, "a.png", png()), "star, key", 0.7, 0.5, False)
    assert "event: complete" in answer and '"models": [{"name": "base"' in answer
    broken = call(address, "segment", uploaded(address, "a.png", png()[:99]), "star, key", 0.7, 0.5, False)
    assert "event: complete" in broken and "This image cannot be read" in broken
    nothing = call(address, "segment", uploaded(address, "a.png", png()), " , ", 0.7, 0.5, False)
    assert "No words are given" in nothing


def test_an_upload_that_was_deleted_is_asked_for_again(address: str) -> None:
    image = uploaded(address, "a.png", png(7))
    Path(image["path"]).unlink()
    answer = call(address, "segment", image, "star, key", 0.7, 0.5, False)
    assert "event: complete" in answer and "drop the image again" in answer


def test_only_uploaded_files_are_read(address: str, example: Path) -> None:
    secret = {"path": str(ROOT / "params.yaml"), "meta": {"_type": "gradio.FileData"}}
    answer = call(address, "segment", secret, "star", 0.7, 0.5, False)
    assert "event: error" in answer and "models" not in answer
    for path in ("/etc/passwd", str(ROOT / "params.yaml"), "params.yaml", str(example.parent / "other.png")):
        assert requests.get(f"{address}gradio_api/file={path}", timeout=20).status_code in (403, 404)
    assert requests.get(f"{address}gradio_api/file={example}", timeout=20).status_code == 200


def test_the_page_is_reached_from_this_machine_alone(address: str) -> None:
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    assert address == f"http://{LOOPBACK}:{port}/"
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), timeout=2):  # noqa: PT011 - of any kind
        pass
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    config = requests.get(f"{address}config", timeout=20).json()
    assert config["analytics_enabled"] is False and config["is_colab"] is False
    assert config["max_file_size"] == 64 * 1024 * 1024


def test_a_taken_port_is_said(address: str, segmenter: Segmenter) -> None:
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(OvsegError, match=f"{LOOPBACK}:{port}"), serve(Answers({"a": segmenter}), Start(), port=port):
        pass


def test_without_gradio_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "gradio.py").write_text("raise ImportError('no gradio here')", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "pipeline")])}
    command = [sys.executable, "-m", "ovseg.cli.app", "app"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and "pip install -e '.[app]'" in done.stderr


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Any]:
    """The page at the width of a laptop; a test fails if a script of it did, or if anything was fetched from elsewhere."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page, problems = context.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if _is_elsewhere(request.url, address) else None)
    page.set_default_timeout(15_000)
    page.goto(address)
    page.wait_for_selector(".view .empty")
    yield page
    context.close()
    assert not problems


def _is_elsewhere(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))


def upload(page: Any, name: str, data: bytes) -> None:
    page.locator("input[type=file]").first.set_input_files({"name": name, "mimeType": "image/png", "buffer": data})


def answered(page: Any) -> None:
    """Upload an image and wait for its answer."""
    upload(page, "a.png", png())
    page.wait_for_selector(".view canvas")


def picked(page: Any) -> list[Table]:
    """Click the same place of the first picture, and return the table of its region by each model."""
    page.locator(".view canvas").first.click(position={"x": 20, "y": 20})
    page.wait_for_selector("table.region")
    rows = "[...table.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.innerText))"
    texts = f"tables => tables.map(table => [table.caption.innerText, {rows}])"
    return [Table(caption, found) for caption, found in page.locator("table.region").evaluate_all(texts)]


def forgotten(page: Any) -> None:
    """Wait for the answer to changed settings: it takes the tables of the answer before away."""
    page.wait_for_function("document.querySelectorAll('table.region').length === 0")


def slide(page: Any, name: str, key: str) -> None:
    """Move a slider by one key, and wait for the new answer."""
    page.get_by_label(f"range slider for {name}").press(key)
    forgotten(page)


@pytest.mark.slow
@in_browser
def test_in_a_browser_each_model_draws_its_own_answer_and_new_words_are_drawn(page: Any) -> None:
    answered(page)
    assert page.locator(".view figcaption").all_inner_texts() == ["base", "adapted"]
    base, adapted = page.locator(".view canvas").evaluate_all("canvases => canvases.map(c => c.toDataURL())")
    assert base != adapted
    page.get_by_label("Words").fill("red cup, traffic light")
    page.get_by_label("Words").press("Enter")
    page.wait_for_function("document.querySelector('.legend')?.innerText.match(/red cup|traffic light/)")
    assert not set(page.locator(".legend b").all_inner_texts()) & {"star", "key", "boat"}


@pytest.mark.slow
@in_browser
def test_in_a_browser_the_weight_moves_the_ensemble_from_one_classifier_to_the_other(page: Any) -> None:
    page.get_by_label("Words").fill("fish, guitar, kite")  # of these words the proposal network is not sure
    answered(page)
    picked(page)
    heads = page.locator("table.region").first.locator("thead th").all_inner_texts()
    assert heads == ["word", "ensemble", "CLIP", "proposals"]
    slide(page, "Weight of CLIP", "End")
    at_one = picked(page)
    assert [table.column(1) for table in at_one] == [table.column(2) for table in at_one]
    slide(page, "Weight of CLIP", "Home")
    base, adapted = picked(page)
    assert base.column(1) == base.column(3) == adapted.column(1) == adapted.column(3)
    assert (
        len({tuple(column) for column in (base.column(1), base.column(2), adapted.column(2), at_one[0].column(1))}) == 4
    )


@pytest.mark.slow
@in_browser
def test_in_a_browser_a_lower_threshold_makes_a_region_larger(page: Any) -> None:
    """Without CLIP, because with it other masks can make another region the one that contributes most."""
    answered(page)
    picked(page)
    slide(page, "Weight of CLIP", "Home")
    before = [table.area for table in picked(page)]
    slide(page, "Mask threshold", "Home")
    lowest = [table.area for table in picked(page)]
    slide(page, "Mask threshold", "End")
    highest = [table.area for table in picked(page)]
    assert all(high < middle < low for high, middle, low in zip(highest, before, lowest, strict=True))


@pytest.mark.slow
@in_browser
def test_in_a_browser_others_is_one_more_class(page: Any) -> None:
    answered(page)
    assert [sorted(table.column(0)) for table in picked(page)] == [["boat", "key", "star"]] * 2
    page.get_by_label('"others"').check()
    forgotten(page)
    assert [sorted(table.column(0)) for table in picked(page)] == [["boat", "key", "others", "star"]] * 2
    page.get_by_label('"others"').uncheck()
    forgotten(page)
    assert [sorted(table.column(0)) for table in picked(page)] == [["boat", "key", "star"]] * 2


@pytest.mark.slow
@in_browser
def test_in_a_browser_a_slider_takes_its_own_positions_alone(page: Any) -> None:
    """A threshold that is typed is one of those that are computed ahead; what is typed on the way to it is not asked."""
    asked: list[float] = []

    def asks(request: Any) -> bool:
        if "queue/join" not in request.url or len(values := json.loads(request.post_data)["data"]) != 5:
            return False
        asked.append(values[3])
        return bool(values[3] == 0.3)

    answered(page)
    box = page.get_by_label("number input for Mask threshold")
    with page.expect_request(asks):
        box.fill("")
        box.press_sequentially("0.45")
        box.press("Tab")
        assert box.input_value() == "0.4", "the last position on the way to 0.45"
        for text in ("", "7"):
            box.fill(text)
            box.press("Tab")
            assert box.input_value() == "0.4"
        box.fill("0.3")
    assert set(asked) == {0.4, 0.3} and page.locator(".toast-body").count() == 0


@pytest.mark.slow
@in_browser
def test_in_a_browser_opacity_changes_the_drawing_alone(page: Any) -> None:
    answered(page)
    canvas, before = page.locator(".view canvas").first, page.locator(".legend").inner_text()
    drawn = canvas.evaluate("canvas => canvas.toDataURL()")
    assert canvas.evaluate("canvas => getComputedStyle(canvas).opacity") == "0.6"
    page.get_by_label("range slider for Opacity").press("End")
    page.wait_for_function("getComputedStyle(document.querySelector('.view canvas')).opacity === '1'")
    assert canvas.evaluate("canvas => canvas.toDataURL()") == drawn and page.locator(".legend").inner_text() == before


@pytest.mark.slow
@in_browser
def test_in_a_browser_the_legend_highlights_by_mouse_and_by_keyboard(page: Any) -> None:
    upload(page, "a.png", png())
    page.wait_for_selector(".legend button")
    canvas, button = page.locator(".view canvas").first, page.locator(".legend button").first
    opaque = (
        "canvas => canvas.getContext('2d').getImageData(0, 0, 64, 48).data.filter((v, i) => i % 4 == 3 && v).length"
    )
    everything = canvas.evaluate(opaque)
    assert page.locator(".legend b").all_inner_texts() == ["star", "key"]
    button.hover()
    assert 0 < canvas.evaluate(opaque) < everything == 64 * 48
    page.mouse.move(0, 0)
    assert canvas.evaluate(opaque) == everything
    button.focus()
    button.press("Enter")
    page.wait_for_selector("table.region")
    assert button.get_attribute("aria-pressed") == "true"


@pytest.mark.slow
@in_browser
def test_in_a_browser_a_broken_file_is_explained_and_the_next_one_answered(page: Any) -> None:
    upload(page, "broken.png", png()[:80])
    page.wait_for_selector(".message.problem")
    assert "This image cannot be read" in page.locator(".message.problem").first.inner_text()
    page.get_by_label("Remove this file").or_(page.get_by_label("Clear")).first.click()
    answered(page)
    assert page.locator(".message.problem").count() == 0


@pytest.mark.slow
@in_browser
def test_in_a_browser_a_file_above_the_limit_is_refused_and_the_next_one_answered(page: Any, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    with large.open("wb") as stream:
        stream.truncate(64 * 1024 * 1024 + 1)
    page.locator("input[type=file]").first.set_input_files(large)
    page.wait_for_selector(".toast-body")
    said = page.locator(".toast-body").inner_text()
    assert "exceed the maximum allowed size of 64" in said and "large.png" in said
    answered(page)


@pytest.mark.slow
@in_browser
def test_in_a_browser_an_example_is_answered_and_its_files_are_downloaded(page: Any) -> None:
    page.get_by_label("Thumbnail 1").first.click()
    page.wait_for_selector(".view canvas")
    page.get_by_role("button", name="Make overlay, label map and JSON").click()
    page.wait_for_selector("text=example.adapted.labels")
    with page.expect_download() as download:
        page.locator("a[download*='adapted.labels']").first.click()
    assert Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).size == (64, 48)


@pytest.mark.slow
@in_browser
def test_in_a_browser_many_images_become_one_zip(page: Any) -> None:
    page.get_by_role("button", name="Many images").click()
    images = {"x.png": png(1), "y.png": png(2), "broken.png": png()[:80]}
    page.locator("input[type=file]").last.set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in images.items()]
    )
    page.wait_for_selector("a[download='broken.png']", state="attached")
    page.get_by_role("button", name="Segment all").click()
    page.wait_for_selector("text=2 of 3 images are segmented; left out: broken.png: this image cannot be read")
    with page.expect_download() as download:
        page.locator("a[download='segmented.zip']").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        suffixes = ("json", "labels.png", "overlay.png")
        expected = {f"{image}.{model}.{kind}" for image in "xy" for model in ("base", "adapted") for kind in suffixes}
        assert set(archive.namelist()) == expected
        assert json.loads(archive.read("y.adapted.json"))["names"] == ["star", "key", "boat"]


@pytest.mark.slow
@in_browser
def test_in_a_browser_pairs_are_filtered_and_marked(page: Any, mined: Mined, marks: Path) -> None:
    page.get_by_role("tab", name="Pairs").click()
    page.wait_for_selector(".cards li")
    total = page.locator(".cards li").count()
    noun = page.locator(".cards .noun").first.inner_text()
    page.get_by_label("Noun").fill(noun)
    page.get_by_label("Noun").press("Enter")
    page.wait_for_function(f"document.querySelectorAll('.cards li').length < {total}")
    assert set(page.locator(".cards .noun").all_inner_texts()) == {noun}
    page.locator(".cards input").first.check()
    page.wait_for_selector("text=1 pair is marked as wrong")
    (marked,) = read_wrong_pairs(marks)
    assert isinstance(marked, WrongPair) and marked.noun == noun
    page.reload()
    page.get_by_role("tab", name="Pairs").click()
    page.wait_for_selector("text=1 pair is marked as wrong")


@pytest.mark.slow
@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_axe_finds_no_fault_and_nothing_is_wider_than_the_page(
    width: int, scheme: str, chromium: Any, address: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(".view .empty")
    upload(page, "broken.png", png()[:80])
    page.wait_for_selector(".message.problem")
    faults = {"problem": Axe().run(page).response["violations"]}
    page.get_by_label("Clear").click()
    answered(page)
    page.locator(".legend button").first.click()
    page.wait_for_selector("table.region")
    page.get_by_role("button", name="Many images").click()
    page.get_by_role("button", name="Segment all").click()
    page.wait_for_selector("text=There are no images yet")
    faults["Segment"] = Axe().run(page).response["violations"]
    page.get_by_role("tab", name="Pairs").click()
    page.wait_for_selector(".cards li")
    faults["Pairs"] = Axe().run(page).response["violations"]
    wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    context.close()
    assert not [(part, one["id"], one["nodes"][0]["html"]) for part, found in faults.items() for one in found]
    assert not wide
