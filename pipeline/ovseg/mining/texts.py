"""The text embeddings of the mined nouns. Each distinct noun is encoded once for a whole run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ovseg.clip.adapted import load_named
from ovseg.clip.load import Clip
from ovseg.clip.pretrained import weights_fingerprint
from ovseg.core import tables
from ovseg.core.files import write_json
from ovseg.core.options import ClipOptions, Precision, Templates
from ovseg.core.vocabulary import TEMPLATES
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.scratch import Scratch
from ovseg.engine.steps import run_step
from ovseg.engine.units import Counts, Task, unit_names

NOUNS_PER_UNIT = 256


def encode_nouns(
    nouns: Path,
    proposals: Path,
    out: Path,
    runtime: Runtime,
    clip: ClipOptions,
    templates: Templates,
    precision: Precision,
) -> None:
    """Embed every distinct noun of the images that have masks, into the folder `out` (see `read_texts`).

    Args:
        nouns, proposals: folders of the tables of these names, part for part of the same images.
        out: folder of the embeddings.
        runtime: devices, batch size, scratch folder.
        clip: the CLIP whose text tower encodes them.
        templates: key of `vocabulary.TEMPLATES`.
        precision: arithmetic of the text tower.
    """
    distinct = _distinct_nouns(nouns, proposals)
    key = step_key(
        "texts",
        __name__,
        clip=weights_fingerprint(clip.model, clip.pretrained),
        precision=precision,
        templates=TEMPLATES[templates],
        nouns=distinct,
    )
    scratch = Scratch(runtime.work, key, runtime.fresh, keep=runtime.keep)
    write_json(scratch.folder / "nouns.json", distinct)
    units = [f"{i:05d}" for i in range(-(-len(distinct) // NOUNS_PER_UNIT))]
    factory = _TextsTaskFactory(scratch.folder / "nouns.json", clip, templates, precision)
    run_step(key, units, factory, out, runtime, uses_model=True, scratch=scratch)


def _distinct_nouns(nouns: Path, proposals: Path) -> list[str]:
    distinct: set[str] = set()
    for unit in unit_names(nouns):
        table = tables.read_part(proposals / f"{unit}.parquet", "proposals", ["image_id"])
        with_masks = set(table["image_id"].unique().to_pylist())
        rows = tables.read_part(nouns / f"{unit}.parquet", "nouns", ["image_id", "noun"]).to_pylist()
        distinct.update(row["noun"] for row in rows if row["image_id"] in with_masks)
    return sorted(distinct)


@dataclass(frozen=True)
class _TextsTaskFactory:
    nouns: Path
    clip: ClipOptions
    templates: Templates
    precision: Precision

    def __call__(self, device: str) -> Task:
        clip = load_named(self.clip.model, self.clip.pretrained, device, self.precision)
        all_nouns: list[str] = json.loads(self.nouns.read_text(encoding="utf-8"))

        def task(unit: str, folder: Path) -> Counts:
            start = int(unit) * NOUNS_PER_UNIT
            nouns = all_nouns[start : start + NOUNS_PER_UNIT]
            vectors = embed_nouns(clip, nouns, self.templates)
            np.savez(folder / f"{unit}.npz", names=np.array(nouns), vectors=vectors.numpy())
            return {"distinct_nouns": len(nouns)}

        return task


def embed_nouns(clip: Clip, nouns: Sequence[str], templates: Templates) -> Tensor:
    """Embed N nouns as the CLIP compares regions with them (see `Clip.embed_names`), but as unit vectors, float32 `[N, D]`.

    With learned template weights those are no unit vectors; as unit vectors they rank the regions of a noun alike.
    """
    vectors = clip.embed_names(nouns, templates)
    return vectors if clip.regions.template_weights is None else F.normalize(vectors, dim=-1)


def read_texts(folder: Path) -> dict[str, Tensor]:
    """Read the embeddings that `encode_nouns` wrote: a unit vector `[D]`, float32, for each noun."""
    embeddings: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as data:
            embeddings.update(zip(data["names"].tolist(), torch.from_numpy(data["vectors"]), strict=True))
    return embeddings
