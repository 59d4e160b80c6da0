"""The embeddings of candidates that `score` keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import save

from ovseg.clip.embedding_files import FOLDER
from ovseg.clip.load import Clip, load_clip
from ovseg.clip.pretrained import weights_fingerprint
from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.image_records import ImageRecord
from ovseg.core.options import ClipOptions, CropOptions, ScoreOptions
from ovseg.core.vocabulary import embed
from ovseg.engine.runtime import Runtime
from ovseg.mining import score_unit
from ovseg.mining.regions import encoded_by, read_regions, region_parts
from ovseg.mining.score import score_nouns
from tests.conftest import Mined, digests


def test_every_candidate_has_its_unit_vector_once(mined: Mined, tiny_clip: Path) -> None:
    """Its product with the embedding of the noun is the similarity, but for 11 bits of mantissa."""
    clip = load_clip(f"local-dir:{tiny_clip}")
    rows = list(tables.rows(mined.candidates, "candidates"))
    (part,) = region_parts(mined.candidates)
    regions = read_regions(part)
    assert regions.vectors.dtype == np.float16 and regions.vectors.shape[1] == clip.width
    assert np.linalg.norm(regions.vectors.astype(float), axis=1) == pytest.approx(1, abs=1e-3)
    keys = list(zip(regions.image_ids.tolist(), regions.proposals.tolist(), strict=True))
    assert len(keys) == len(set(keys)) and set(keys) == {(row["image_id"], row["proposal"]) for row in rows}
    texts = embed([row["noun"] for row in rows], clip.encode_texts, "vild").numpy()
    vectors = regions.vectors[regions.rows_of((row["image_id"], row["proposal"]) for row in rows)]
    assert (vectors * texts).sum(axis=1) == pytest.approx([row["similarity"] for row in rows], abs=1e-3)


def test_the_table_names_the_clip_and_how_it_scored(mined: Mined, tiny_clip: Path) -> None:
    assert encoded_by(mined.candidates) == (weights_fingerprint(f"local-dir:{tiny_clip}", None), ScoreOptions())


def test_regions_that_are_not_kept_change_no_candidate(
    mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """The rows are the same, and what needs the regions says what to do."""
    out = tmp_path / "candidates"
    folders = (mined.index, mined.coco.images, mined.nouns, mined.proposals, out)
    clip = ClipOptions(model=f"local-dir:{tiny_clip}")
    score_nouns(*folders, runtime, clip, ScoreOptions(keep_regions="none"), CropOptions())
    assert tables.read(out, "candidates") == tables.read(mined.candidates, "candidates")
    assert not [name for name in digests(out) if "regions" in name]
    with pytest.raises(OvsegError, match=r"score\.keep_regions=candidates"):
        region_parts(out)


@pytest.mark.parametrize("encoder", [{}, {"encoder": "region_tokens", "start_block": 0}], ids=["crops", "one pass"])
def test_with_all_regions_kept_other_nouns_and_templates_need_no_clip_for_images(
    mined: Mined,
    tiny_clip: Path,
    tmp_path: Path,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    encoder: dict[str, Any],
) -> None:
    """The first run has the nouns of half of the images; the table is that of a run that encodes, byte for byte."""

    def scored(name: str, work: str, nouns: Path = mined.nouns, **changes: Any) -> Path:
        options = ScoreOptions(**{"keep_regions": "all", **encoder, **changes})
        folders = (mined.index, mined.coco.images, nouns, mined.proposals, tmp_path / name)
        clip = ClipOptions(model=f"local-dir:{tiny_clip}")
        score_nouns(*folders, replace(runtime, work=tmp_path / work), clip, options, CropOptions())
        return tmp_path / name

    (part,) = tables.parts(mined.nouns)
    rows = tables.read_part(part, "nouns")
    ids = rows["image_id"].unique().to_pylist()
    half = tmp_path / "half"
    half.mkdir()
    few = rows.filter(pc.is_in(rows["image_id"], pa.array(ids[::2])))
    tables.write_part(half / part.name, "nouns", few, "half of the images")
    scored("half-scored", "work", half)
    scored("all-scored", "work")
    with monkeypatch.context() as patched:
        patched.setattr(Clip, "encode_crops", None)
        patched.setattr(score_unit, "encode_in_one_pass", lambda clip, images, masks: torch.zeros(len(masks), 0))
        patched.setattr(ImageRecord, "pixels", None)
        again = scored("again", "work", templates="none", top_k=2)
    assert digests(again) == digests(scored("encoded", "elsewhere", templates="none", top_k=2))
    regions = read_regions(region_parts(again)[0])
    proposals = [
        row for row in tables.rows(mined.proposals, "proposals") if row["image_id"] in ids and row["label"] is None
    ]
    assert len(regions.image_ids) == len(proposals)


@pytest.mark.parametrize("damaged", [b"no tensors", save({"other": torch.ones(1)})], ids=["bytes", "other tensors"])
def test_all_regions_kept_change_no_candidate_and_a_damaged_file_is_encoded_again(
    mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    folders = (mined.index, mined.coco.images, mined.nouns, mined.proposals)
    clip, crop = ClipOptions(model=f"local-dir:{tiny_clip}"), CropOptions()
    score_nouns(*folders, tmp_path / "a", runtime, clip, ScoreOptions(keep_regions="all"), crop)
    assert tables.read(tmp_path / "a", "candidates") == tables.read(mined.candidates, "candidates")
    (file,) = (runtime.work / FOLDER).rglob("*.safetensors")
    before = file.read_bytes()
    file.write_bytes(damaged)
    again = replace(runtime, fresh=True)
    score_nouns(*folders, tmp_path / "b", again, clip, ScoreOptions(keep_regions="all"), crop)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert file.read_bytes() == before and str(file) in caplog.text
