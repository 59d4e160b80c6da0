"""The embeddings of candidates that `score` keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ovseg.clip.load import load_clip
from ovseg.clip.pretrained import weights_fingerprint
from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import ClipOptions, CropOptions, ScoreOptions
from ovseg.core.vocabulary import embed
from ovseg.engine.runtime import Runtime
from ovseg.mining.regions import model_of, read_regions, region_parts
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


def test_the_table_names_the_clip(mined: Mined, tiny_clip: Path) -> None:
    assert model_of(mined.candidates) == weights_fingerprint(f"local-dir:{tiny_clip}", None)


def test_regions_that_are_not_kept_change_no_candidate(
    mined: Mined, tiny_clip: Path, tmp_path: Path, runtime: Runtime
) -> None:
    """The rows are the same, and what needs the regions says what to do."""
    out = tmp_path / "candidates"
    folders = (mined.index, mined.coco.images, mined.nouns, mined.proposals, out)
    clip = ClipOptions(model=f"local-dir:{tiny_clip}")
    score_nouns(*folders, runtime, clip, ScoreOptions(keep_regions=False), CropOptions())
    assert tables.read(out, "candidates") == tables.read(mined.candidates, "candidates")
    assert not [name for name in digests(out) if "regions" in name]
    with pytest.raises(OvsegError, match=r"score\.keep_regions=true"):
        region_parts(out)
