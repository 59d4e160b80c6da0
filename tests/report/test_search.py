"""Search in mined regions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer.testing

from ovseg.cli.mine import app
from ovseg.clip.load import load_clip
from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import ClipOptions, CropOptions, ScoreOptions
from ovseg.core.vocabulary import embed
from ovseg.engine.runtime import Runtime
from ovseg.mining.regions import FOLDER, read_regions, region_parts
from ovseg.mining.score import score_nouns
from ovseg.mining.search import NO_NOUN, embed_text, load_searcher, nearest_regions
from ovseg.report.search import search_run
from tests.conftest import Mined


def test_the_nearest_regions_are_those_of_the_largest_products(mined_units: Mined) -> None:
    """Over all parts, each with the noun that fits it best."""
    query = np.random.default_rng(0).normal(size=16).astype(np.float32)
    found = nearest_regions(mined_units.candidates, query, 30)
    similarities = np.concatenate([read_regions(part).vectors @ query for part in region_parts(mined_units.candidates)])
    expected = np.sort(similarities)[::-1][:30]
    assert [row["similarity"] for row in found] == pytest.approx(expected.tolist(), abs=2e-5)
    assert len({row["part"] for row in found}) > 1
    best: dict[tuple[int, int], float] = {}
    rows = list(tables.rows(mined_units.candidates, "candidates"))
    for row in rows:
        key = row["image_id"], row["proposal"]
        best[key] = max(best.get(key, -1), row["similarity"])
    similarity_of = {(row["image_id"], row["proposal"], row["noun"]): row["similarity"] for row in rows}
    for row in found:
        key = row["image_id"], row["proposal"]
        assert similarity_of[*key, row["noun"]] == best[key]


def test_a_text_is_found_as_a_noun_is_scored(mined: Mined, tiny_clip: Path, tmp_path: Path) -> None:
    """The lines are the page's cards, best first, and the first is the best product with the noun's embedding."""
    out = tmp_path / "page.html"
    settings = {"clip": f"local-dir:{tiny_clip}", "images": mined.coco.images}
    text = search_run(mined.folder, out, text="<kite>", image=None, number=4, device="cpu", **settings)  # type: ignore[arg-type]
    *lines, last = text.splitlines()
    assert len(lines) == 4 and last == f"-> {out}"
    page = out.read_text(encoding="utf-8")
    assert "<kite>" not in page and "\\u003ckite>" in page
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    shown = sorted((card["similarity"] for card in data["cards"]), reverse=True)
    assert [float(line.split()[0]) for line in lines] == pytest.approx(shown, abs=6e-4)
    query = embed(["<kite>"], load_clip(f"local-dir:{tiny_clip}").encode_texts, "vild")[0].numpy()
    (part,) = region_parts(mined.candidates)
    assert shown[0] == pytest.approx(float((read_regions(part).vectors @ query).max()), abs=1e-3)


def test_a_search_takes_the_options_that_scored_and_finds_regions_that_no_noun_has(
    mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """Of a run without run.json, as DVC's; the folder of regions holds all proposals."""
    run, clip = Path(shutil.copytree(mined.folder, tmp_path / "run")), ClipOptions(model=f"local-dir:{tiny_clip}")
    shutil.rmtree(run / "candidates")
    options = ScoreOptions(
        encoder="region_tokens", start_block=0, templates="none", top_k=1, keep_regions="all", duplicate_iou=1.0
    )
    folders = (run / "index", mined.coco.images, run / "nouns", run / "proposals", run / "candidates")
    score_nouns(*folders, runtime, clip, options, CropOptions())
    searcher, score = load_searcher(run / "candidates", clip, "cpu")
    assert score == options and searcher.regions.encoder == "region_tokens"
    assert np.array_equal(
        embed_text(searcher, "kite", "none"), embed(["kite"], searcher.encode_texts, "none")[0].numpy()
    )
    settings = {"clip": clip.model, "images": mined.coco.images}
    out = tmp_path / "page.html"
    text = search_run(run, out, text="kite", image=None, number=99, device="cpu", **settings)  # type: ignore[arg-type]
    candidates = {(row["image_id"], row["proposal"]) for row in tables.rows(run / "candidates", "candidates")}
    (part,) = region_parts(run / "candidates")
    assert text.count(f"  {NO_NOUN}, ") == len(read_regions(part).image_ids) - len(candidates) > 0


def test_an_image_is_searched_as_one_region(mined: Mined, tiny_clip: Path, tmp_path: Path) -> None:
    image = next(iter(sorted(mined.coco.images.iterdir())))
    settings = {"clip": f"local-dir:{tiny_clip}", "images": mined.coco.images}
    text = search_run(mined.folder, tmp_path / "page.html", text=None, image=image, number=2, device="cpu", **settings)  # type: ignore[arg-type]
    assert len(text.splitlines()) == 3
    (tmp_path / "no.jpg").write_bytes(b"no image")
    with pytest.raises(OvsegError, match=r"no\.jpg cannot be read"):
        search_run(mined.folder, tmp_path / "p.html", text=None, image=tmp_path / "no.jpg", number=2, **settings)  # type: ignore[arg-type]


def test_what_is_missing_is_named(mined: Mined, tiny_clip: Path, tmp_path: Path) -> None:
    """A folder that does not say its CLIP, another CLIP, a run without regions, and a search for nothing or for two things."""
    with pytest.raises(OvsegError, match="give --clip and --images"):
        search_run(mined.folder, tmp_path / "p.html", text="kite", image=None, number=2)
    other = Path(shutil.copytree(tiny_clip, tmp_path / "other"))
    (other / "note.txt").write_text("changed", encoding="utf-8")
    settings = {"clip": f"local-dir:{other}", "images": mined.coco.images}
    with pytest.raises(OvsegError, match=r"encoded by a CLIP with the fingerprint .* give the CLIP that scored"):
        search_run(mined.folder, tmp_path / "p.html", text="kite", image=None, number=2, **settings)  # type: ignore[arg-type]
    run = Path(shutil.copytree(mined.folder, tmp_path / "run"))
    shutil.rmtree(run / "candidates" / FOLDER)
    with pytest.raises(OvsegError, match=r"score\.keep_regions=candidates"):
        search_run(run, tmp_path / "p.html", text="kite", image=None, number=2, **settings)  # type: ignore[arg-type]
    for arguments in ([], ["--text", "kite", "--image", "x.jpg"]):
        result = typer.testing.CliRunner().invoke(app, ["search", str(run), *arguments])
        assert result.exit_code == 2 and "either --text or --image" in result.output
