"""How well nouns fit masks: against a formula, and whatever the batches and threads."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg.clip.adapted import load_adapted, save_adapted
from ovseg.clip.load import load_clip
from ovseg.clip.region_settings import RegionSettings
from ovseg.clip.regions import encode_regions, with_regions
from ovseg.clip.save import save_clip
from ovseg.core import hashing, masks, tables
from ovseg.core.crops import crop_region, fill_color
from ovseg.core.errors import OvsegError
from ovseg.core.options import ClipOptions, CropOptions, Precision, ScoreOptions
from ovseg.core.vocabulary import TEMPLATES, embed
from ovseg.engine.runtime import Runtime
from ovseg.mining.matching import originals_of, rank
from ovseg.mining.regions import read_regions, region_parts
from ovseg.mining.score import score_nouns
from ovseg.mining.scorer import check_scorer, load_scorer
from tests.clip.test_passes import VIT_B
from tests.conftest import HEIGHT, TINY, WIDTH, Mined, digests, random_clip
from tests.towers import save, with_pseudo_texts

Row = dict[str, Any]


def scored(mined: Mined, clip: Path, out: Path, runtime: Runtime, **options: Any) -> dict[str, int]:
    inputs: Row = {"images": mined.coco.images, "nouns": mined.nouns, "proposals": mined.proposals}
    inputs |= {name: options.pop(name) for name in inputs if name in options}
    crop = CropOptions(**{name: options.pop(name) for name in CropOptions.model_fields if name in options})
    identity = ClipOptions(model=f"local-dir:{clip}")
    return score_nouns(
        index=mined.index,
        out=out,
        runtime=runtime,
        clip=identity,
        options=ScoreOptions(**options),
        crop=crop,
        **inputs,
    )


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


@pytest.mark.parametrize(("nouns", "proposals", "top_k"), [(3, 5, 2), (1, 1, 4), (4, 2, 9), (2, 100, 100)])
def test_a_rank_is_the_formula(nouns: int, proposals: int, top_k: int) -> None:
    """Best first by cosine, margin to the next even beyond top_k, both softmaxes at CLIP's temperature of 100."""
    texts, regions = unit(nouns, 8), unit(proposals, 8, seed=1)
    cosine = np.array(
        [[sum(a * b for a, b in zip(t, r, strict=True)) for r in regions.tolist()] for t in texts.tolist()]
    )
    for n, matches in enumerate(rank(texts, regions, top_k)):
        order = sorted(range(proposals), key=lambda q, n=n: -cosine[n, q])  # type: ignore[misc]
        assert [match.position for match in matches] == order[:top_k]
        for i, (q, similarity, margin, p_proposal, p_noun) in enumerate(matches):
            assert similarity == pytest.approx(cosine[n, q], abs=2e-5)
            following = cosine[n, order[i + 1]] if i + 1 < proposals else None
            assert margin == (None if following is None else pytest.approx(cosine[n, q] - following, abs=3e-5))
            assert p_proposal == pytest.approx(np.exp(100 * cosine[n, q]) / np.exp(100 * cosine[n]).sum(), abs=2e-3)
            assert p_noun == pytest.approx(np.exp(100 * cosine[n, q]) / np.exp(100 * cosine[:, q]).sum(), abs=2e-3)


def test_ties_are_in_the_order_of_the_masks() -> None:
    """Equal masks, and ones that differ by less than what batches can move, keep their order, with no margin."""
    vector = unit(1, 8)
    noise = torch.nn.functional.normalize(
        vector + 1e-7 * torch.randn(4, 8, generator=torch.Generator().manual_seed(3)), dim=-1
    )
    (matches,) = rank(vector, noise, 4)
    assert [match.position for match in matches] == [0, 1, 2, 3]
    assert [match.margin for match in matches] == [0.0, 0.0, 0.0, None]


def test_the_step_is_the_formula(mined: Mined, tiny_clip: Path) -> None:
    """Each row of the table is the cosine of the noun's templates and the mask's crop, computed one at a time."""
    clip = load_clip(f"local-dir:{tiny_clip}")
    color = fill_color("mean", clip.mean.tolist())
    files = {row["image_id"]: row["file"] for row in tables.rows(mined.index, "index")}
    regions = {(r["image_id"], r["proposal"]): r for r in tables.rows(mined.proposals, "proposals")}
    rows = list(tables.rows(mined.candidates, "candidates"))
    assert {row["rank"] for row in rows} >= {0, 1}
    for row in rows[::3]:
        proposal = regions[row["image_id"], row["proposal"]]
        assert proposal["label"] is None
        pixels = np.asarray(Image.open(mined.coco.images / files[row["image_id"]]).convert("RGB"))
        mask = masks.decode(proposal["rle"], HEIGHT, WIDTH)
        crop = crop_region(pixels, mask, tuple(proposal["box"]), clip.size, color, True)[0]
        text = embed([row["noun"]], clip.encode_texts, "vild", 1)
        assert row["similarity"] == pytest.approx(float(clip.encode_crops(crop[None])[0] @ text[0]), abs=2e-5)
        assert row["area"] == proposal["area"]


def test_every_noun_has_its_masks_in_order(mined: Mined) -> None:
    """Ranks from 0 without gaps, similarities falling, and margins that are their differences."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in tables.rows(mined.candidates, "candidates"):
        groups.setdefault((row["image_id"], row["noun"]), []).append(row)
    nouns = {(row["image_id"], row["noun"]) for row in tables.rows(mined.nouns, "nouns")}
    assert set(groups) == nouns
    for rows in groups.values():
        assert [row["rank"] for row in rows] == list(range(len(rows))) and len(rows) <= 5
        for row, following in itertools.pairwise(rows):
            assert row["margin"] >= 0
            assert row["margin"] == pytest.approx(row["similarity"] - following["similarity"], abs=1e-6)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (3, 2), (500, 4)])
def test_batches_and_threads_change_nothing(
    batch_size: int, workers: int, mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """Not a byte of the table."""
    scored(mined, tiny_clip, tmp_path / "out", replace(runtime, batch_size=batch_size, workers=workers))
    assert digests(tmp_path / "out", "*.parquet") == digests(mined.candidates, "*.parquet")


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.bf16)])
def test_real_batch_sizes_change_nothing_with_the_shapes_of_a_vit_b(
    precision: Precision, mined: Mined, tmp_path: Path, runtime: Runtime
) -> None:
    """Where a forward pass of 1, 16 and 64 crops rounds otherwise: in bfloat16 other masks would be chosen."""
    clip = tmp_path / "clip"
    save_clip(random_clip(VIT_B), VIT_B, clip)
    tables_of = {}
    for batch_size in (1, 16, 64):
        out, work = tmp_path / str(batch_size), tmp_path / f"work{batch_size}"
        scored(mined, clip, out, replace(runtime, batch_size=batch_size, work=work), precision=precision)
        tables_of[batch_size] = digests(out, "*.parquet")
    assert tables_of[1] == tables_of[16] == tables_of[64]


def test_a_duplicate_is_of_the_earliest_mask_that_is_no_duplicate() -> None:
    """Duplicates of duplicates are not found, so that masks that grow step by step stay apart."""
    base = np.zeros((10, 10), bool)
    counts = []
    for width in (4, 5, 6, 10):
        mask = base.copy()
        mask[:, :width] = True
        counts.append(masks.encode(mask))
    assert originals_of(counts, 10, 10, 1.0) == [0, 1, 2, 3]
    assert originals_of(counts, 10, 10, 0.79) == [0, 0, 2, 3]  # 4:5 = 0.8, 4:6 = 0.67
    assert originals_of(counts, 10, 10, 0.6) == [0, 0, 0, 3]
    assert originals_of([], 10, 10, 0.5) == []


def test_duplicates_share_their_encoding(mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime) -> None:
    """Each mask twice: half the crops are encoded, and both copies get the similarity of the first."""
    doubled = tmp_path / "doubled"
    doubled.mkdir()
    for path in tables.parts(mined.proposals):
        free = [row for row in tables.read_part(path, "proposals").to_pylist() if row["label"] is None]
        twice = free + [{**row, "proposal": row["proposal"] + 1000} for row in free]
        tables.write_part(doubled / path.name, "proposals", sorted(twice, key=lambda r: r["image_id"]), "d")
    plain = scored(mined, tiny_clip, tmp_path / "plain", runtime, proposals=doubled, top_k=50)
    shared = scored(mined, tiny_clip, tmp_path / "shared", runtime, proposals=doubled, top_k=50, duplicate_iou=0.999)
    assert 2 * shared["crops"] == plain["crops"]
    shared_rows = {
        (r["image_id"], r["noun"], r["proposal"]): r["similarity"]
        for r in tables.rows(tmp_path / "shared", "candidates")
    }
    for (image_id, noun, proposal), similarity in shared_rows.items():
        if proposal >= 1000:
            assert similarity == shared_rows[image_id, noun, proposal - 1000]
    plain_rows = {
        (r["image_id"], r["noun"], r["proposal"]): r["similarity"]
        for r in tables.rows(tmp_path / "plain", "candidates")
    }
    assert plain_rows.keys() == shared_rows.keys()


def test_what_fails_is_recorded_and_costs_nothing_else(
    mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """An image that is gone, one cut short, one of another size, one without masks: its nouns are counted by reason."""
    images = Path(shutil.copytree(mined.coco.images, tmp_path / "images"))
    names = sorted(path.name for path in images.iterdir())
    (images / names[0]).unlink()
    (images / names[1]).write_bytes((images / names[1]).read_bytes()[:900])
    Image.new("RGB", (5, 5)).save(images / names[2])
    (images / names[2]).write_bytes((images / names[2]).read_bytes().ljust(60_000, b"\0"))
    proposals = tmp_path / "proposals"
    proposals.mkdir()
    for path in tables.parts(mined.proposals):
        rows = [row for row in tables.read_part(path, "proposals").to_pylist() if row["image_id"] != 4]
        tables.write_part(proposals / path.name, "proposals", rows, "p")
    counts = scored(mined, tiny_clip, tmp_path / "out", runtime, images=images, proposals=proposals)
    nouns = [row["image_id"] for row in tables.rows(mined.nouns, "nouns")]
    failures = tables.read_part(tmp_path / "out" / "failures" / "00000.parquet", "failures").to_pylist()
    reasons = {f["image_id"]: f["reason"] for f in failures}
    assert reasons == {1: "missing", 2: "truncated", 3: "size_changed", 4: "no_proposals"}
    assert all(counts[f"dropped.{reason}"] == nouns.count(image_id) for image_id, reason in reasons.items())
    assert counts["images"] == 2 and {row["image_id"] for row in tables.rows(tmp_path / "out", "candidates")} == {5, 6}
    before = [r for r in tables.rows(mined.candidates, "candidates") if r["image_id"] >= 5]
    after = list(tables.rows(tmp_path / "out", "candidates"))
    for row, old in zip(after, before, strict=True):
        assert row["proposal"] == old["proposal"] and row["similarity"] == pytest.approx(old["similarity"], abs=2e-5)


def test_nothing_to_score_is_an_error(mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime) -> None:
    """No noun at all, and no mask at all, are an error that says what is missing, not a crash or an empty table."""
    for name, said in (("nouns", "no nouns are left"), ("proposals", r"no nouns are left.*no_proposals.*image \d")):
        (tmp_path / name).mkdir()
        for path in tables.parts(mined.index):
            tables.write_part(tmp_path / name / path.name, name, [], "e")
        with pytest.raises(OvsegError, match=said):
            scored(mined, tiny_clip, tmp_path / f"out_{name}", runtime, **{name: tmp_path / name})
        assert not (tmp_path / f"out_{name}").exists()


def test_texts_are_safe_from_another_run(mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime) -> None:
    """Another run in the same work folder does not delete the embeddings that a stopped one will read again."""
    scored(mined, tiny_clip, tmp_path / "one", runtime, templates="single")
    (folder,) = runtime.work.glob("score-*/texts")
    before = digests(folder)
    other = load_clip(f"local-dir:{tiny_clip}")
    assert other.width == 16 and before
    (folder.parent / "published").unlink()  # as if it were still at work
    scored(mined, tiny_clip, tmp_path / "two", runtime, templates="none")
    assert digests(folder) == before


def test_candidates_of_other_code_are_said_once(
    mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """They are checked once, and where they are kept no noun is encoded."""
    counts = scored(mined, tiny_clip, tmp_path / "out", runtime)
    manifest = tmp_path / "out" / "step.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"code": {}}))
    other = replace(runtime, keep=True, work=tmp_path / "work")
    assert scored(mined, tiny_clip, tmp_path / "out", other) == counts
    assert caplog.text.count("although the code has changed since") == 1
    assert not list(other.work.glob("score-*/texts"))


def test_the_table_names_the_weights_that_scored_it(mined: Mined, tiny_clip: Path) -> None:
    for part in tables.parts(mined.candidates):
        identity = json.loads(tables.check_part(part, "candidates")["ovseg.clip"])
        assert identity["sha256"] == hashing.sha256_file(tiny_clip / "open_clip_model.safetensors")
        assert identity["model"] == f"local-dir:{tiny_clip}" and identity["base"] is None


@pytest.mark.parametrize("name", ["siglip", "convnext", "native average"])
def test_other_architectures_score_too(name: str, mined: Mined, tmp_path: Path, runtime: Runtime) -> None:
    """By the formula, with the background in the mean color of their own normalization."""
    clip = load_clip(f"local-dir:{save(name, tmp_path / 'clip')}")
    scored(mined, tmp_path / "clip", tmp_path / "out", runtime)
    color = fill_color("mean", clip.mean.tolist())
    assert color is not None and color.tolist() == [128, 128, 128]
    files = {row["image_id"]: row["file"] for row in tables.rows(mined.index, "index")}
    regions = {(r["image_id"], r["proposal"]): r for r in tables.rows(mined.proposals, "proposals")}
    for row in list(tables.rows(tmp_path / "out", "candidates"))[::7]:
        proposal = regions[row["image_id"], row["proposal"]]
        pixels = np.asarray(Image.open(mined.coco.images / files[row["image_id"]]).convert("RGB"))
        mask = masks.decode(proposal["rle"], HEIGHT, WIDTH)
        crop = crop_region(pixels, mask, tuple(proposal["box"]), clip.size, color, True)[0]
        text = embed([row["noun"]], clip.encode_texts, "vild", 1)
        assert row["similarity"] == pytest.approx(float(clip.encode_crops(crop[None])[0] @ text[0]), abs=2e-5)


def test_region_tokens_score_all_proposals_of_an_image_in_one_pass(
    mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """By the formula, whatever the workers; each noun of an image has as many candidates as with crops."""
    clip = load_clip(f"local-dir:{tiny_clip}")
    made_for = with_regions(clip, RegionSettings("region_tokens", 0, clip.size))
    options = {"encoder": "region_tokens", "start_block": 0, "image_size": clip.size}
    counts = scored(mined, tiny_clip, tmp_path / "out", runtime, **options)
    other = replace(runtime, workers=3, batch_size=7, work=tmp_path / "work")
    scored(mined, tiny_clip, tmp_path / "again", other, **options)
    assert digests(tmp_path / "out") == digests(tmp_path / "again")
    files = {row["image_id"]: row["file"] for row in tables.rows(mined.index, "index")}
    proposals: dict[int, list[Row]] = {}
    for row in tables.rows(mined.proposals, "proposals"):
        if row["label"] is None:
            proposals.setdefault(row["image_id"], []).append(row)
    rows = list(tables.rows(tmp_path / "out", "candidates"))
    assert len(rows) == len(list(tables.rows(mined.candidates, "candidates")))
    assert counts["crops"] > 0
    for row in rows[::7]:
        regions = proposals[row["image_id"]]
        pixels = np.asarray(Image.open(mined.coco.images / files[row["image_id"]]).convert("RGB"))
        vectors = encode_regions(made_for, pixels, np.stack([masks.decode(r["rle"], HEIGHT, WIDTH) for r in regions]))
        position = [r["proposal"] for r in regions].index(row["proposal"])
        text = embed([row["noun"]], clip.encode_texts, "vild")[0]
        assert row["similarity"] == pytest.approx(float(vectors[position] @ text), abs=2e-5)


def test_learned_template_weights_count_in_mining(
    mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """The similarity is the cosine of the region and the weighted sum over the templates."""
    clip, adapted = load_clip(f"local-dir:{tiny_clip}"), tmp_path / "adapted"
    weights = tuple(torch.randn(len(TEMPLATES["vild"]), generator=torch.Generator().manual_seed(0)).tolist())
    made_for = RegionSettings("region_tokens", 0, templates="vild", template_weights=weights)
    save_adapted(clip.model, TINY, None, {}, adapted, regions=made_for)
    scored(mined, adapted, tmp_path / "out", runtime)
    (part,) = region_parts(tmp_path / "out")
    regions = read_regions(part)
    rows = list(tables.rows(tmp_path / "out", "candidates"))
    vectors = regions.vectors[regions.rows_of((row["image_id"], row["proposal"]) for row in rows)].astype(np.float32)
    for row, vector in zip(rows, vectors, strict=True):
        texts = clip.encode_texts([form.format(row["noun"]) for form in TEMPLATES["vild"]]).numpy()
        weighted = np.array(weights) @ texts
        assert row["similarity"] == pytest.approx(float(vector @ weighted / np.linalg.norm(weighted)), abs=1e-3)
    with pytest.raises(OvsegError, match=r"for the templates vild, not none; .*score\.templates, to vild"):
        scored(mined, adapted, tmp_path / "none", runtime, templates="none")


def test_an_adapted_clip_scores_with_its_prompts(
    mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """By the formula with mask prompts and text prompts, whatever the batches."""
    clip, adapted = load_clip(f"local-dir:{tiny_clip}"), tmp_path / "adapted"
    prompts, text_prompts = torch.randn(1, 16, 32), torch.randn(2, 16)
    save_adapted(clip.model, TINY, prompts, {}, adapted, text_prompts=text_prompts)
    scored(mined, adapted, tmp_path / "out", runtime)
    other = replace(runtime, workers=3, batch_size=3, work=tmp_path / "work")
    scored(mined, adapted, tmp_path / "again", other)
    assert digests(tmp_path / "out") == digests(tmp_path / "again")
    prompted = load_adapted(adapted)
    files = {row["image_id"]: row["file"] for row in tables.rows(mined.index, "index")}
    regions = {(r["image_id"], r["proposal"]): r for r in tables.rows(mined.proposals, "proposals")}
    for row in list(tables.rows(tmp_path / "out", "candidates"))[::7]:
        pixels = np.asarray(Image.open(mined.coco.images / files[row["image_id"]]).convert("RGB"))
        mask = masks.decode(regions[row["image_id"], row["proposal"]]["rle"], HEIGHT, WIDTH)
        vector, text = encode_regions(prompted, pixels, mask[None])[0], prompted.encode_names([row["noun"]])[0]
        assert row["similarity"] == pytest.approx(float(vector @ text), abs=2e-5)


def test_an_adapted_clip_scores_with_its_region_encoder(
    mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """What its folder says is as good as options that say it."""
    settings = RegionSettings("region_tokens", 0)
    save_adapted(load_clip(f"local-dir:{tiny_clip}").model, TINY, None, {}, tmp_path / "adapted", regions=settings)
    scored(mined, tmp_path / "adapted", tmp_path / "out", runtime)
    scored(mined, tiny_clip, tmp_path / "told", runtime, encoder="region_tokens", start_block=0)
    adapted, told = (tables.read(tmp_path / name, "candidates").to_pylist() for name in ("out", "told"))
    assert adapted == told


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"encoder": "biased_tokens"}, r"score\.encoder=biased_tokens.*made for encoder=region_tokens"),
        ({"encoder": "region_tokens", "start_block": 1}, r"score\.start_block=1.*made for start_block=0"),
        ({"coverage": "soft"}, r"score\.coverage=soft.*made for coverage=half.*or take another CLIP"),
    ],
)
def test_an_encoder_that_the_clip_was_not_trained_for_is_named(
    tiny_clip: Path, tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    """What agrees with its folder, or says nothing, leaves it as it was trained."""
    settings = RegionSettings("region_tokens", 0)
    save_adapted(load_clip(f"local-dir:{tiny_clip}").model, TINY, None, {}, tmp_path / "adapted", regions=settings)
    clip = ClipOptions(model=f"local-dir:{tmp_path / 'adapted'}")
    for agreeing in (ScoreOptions(), ScoreOptions(encoder="region_tokens"), ScoreOptions(start_block=0)):
        assert load_scorer(clip, agreeing, "cpu").regions == settings
    with pytest.raises(OvsegError, match=message):
        load_scorer(clip, ScoreOptions(**asked), "cpu")


def test_an_encoder_that_the_clip_cannot_have_is_named(
    mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime
) -> None:
    with pytest.raises(OvsegError, match=r"score: .*pooled cannot be used.*no ConvNeXt"):
        scored(mined, tiny_clip, tmp_path / "out", runtime, encoder="pooled")
    with pytest.raises(
        OvsegError, match=r"score: .*mask_adapter cannot be used: .*trained adapter.*mask_adapter and take its"
    ):
        scored(mined, tiny_clip, tmp_path / "out", runtime, encoder="mask_adapter")


def test_pseudo_texts_are_refused_before_anything_is_encoded(
    mined: Mined, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since mining compares embeddings across images; a dry run says so, too."""
    with_pseudo_texts(tmp_path / "clip")
    monkeypatch.setattr("ovseg.mining.score.encode_nouns", None)
    with pytest.raises(OvsegError, match=r"has pseudo-texts \(pseudo_text\.safetensors\).* with finetune\.psm=linear"):
        scored(mined, tmp_path / "clip", tmp_path / "out", runtime)
    with pytest.raises(OvsegError, match=r"has pseudo-texts"):
        check_scorer(ClipOptions(model=f"local-dir:{tmp_path / 'clip'}"))
