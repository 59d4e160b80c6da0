"""Embeddings of the mined nouns: each distinct one is encoded once for a whole run, and again by nobody."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovseg.clip.load import Precision, load_clip
from ovseg.core import tables
from ovseg.core.files import write_json
from ovseg.core.vocabulary import TEMPLATES, Templates, embed
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.units import Counts, Scratch, Task, unit_names

NOUNS_PER_UNIT = 256


def encode_nouns(
    nouns: Path,
    proposals: Path,
    out: Path,
    runtime: Runtime,
    clip_model: str,
    clip_pretrained: str | None,
    precision: Precision,
    templates: Templates,
    weights: str,
) -> None:
    """Embed every noun that an image with masks has, once, into the folder `out` (see `read_texts`).

    Args:
        nouns, proposals: folders of those tables.
        out: folder of the embeddings.
        runtime: device and batch size; finished nouns survive a kill.
        clip_model, clip_pretrained, precision: see `load_clip`.
        templates: key of `vocabulary.TEMPLATES`.
        weights: fingerprint of the CLIP.
    """
    distinct = _distinct_nouns(nouns, proposals)
    key = step_key("texts", __name__, clip=weights, precision=precision, templates=TEMPLATES[templates], nouns=distinct)
    scratch = Scratch(runtime.work, key, runtime.fresh)
    write_json(scratch.folder / "nouns.json", distinct)
    units = [f"{i:05d}" for i in range(-(-len(distinct) // NOUNS_PER_UNIT))]
    opener = partial(
        _text_task, scratch.folder / "nouns.json", clip_model, clip_pretrained, precision, templates, runtime.batch_size
    )
    run_step(key, units, opener, out, runtime, uses_model=True, scratch=scratch)


def _distinct_nouns(nouns: Path, proposals: Path) -> list[str]:
    found: set[str] = set()
    for unit in unit_names(nouns):
        masked = (
            tables.read_part(proposals / f"{unit}.parquet", "proposals", ["image_id"])["image_id"].unique().to_pylist()
        )
        rows = tables.read_part(nouns / f"{unit}.parquet", "nouns", ["image_id", "noun"]).to_pylist()
        found.update(row["noun"] for row in rows if row["image_id"] in set(masked))
    return sorted(found)


def _text_task(
    names: Path,
    clip_model: str,
    clip_pretrained: str | None,
    precision: Precision,
    templates: Templates,
    batch_size: int,
    device: str,
) -> Task:
    clip = load_clip(clip_model, clip_pretrained, device, precision)
    every: list[str] = json.loads(names.read_text(encoding="utf-8"))

    def task(unit: str, folder: Path) -> Counts:
        mine = every[int(unit) * NOUNS_PER_UNIT : (int(unit) + 1) * NOUNS_PER_UNIT]
        vectors = embed(mine, clip.encode_texts, templates, batch_size)
        np.savez(folder / f"{unit}.npz", names=np.array(mine), vectors=vectors.numpy())
        return {"distinct_nouns": len(mine)}

    return task


def read_texts(folder: Path) -> dict[str, Tensor]:
    """The embeddings of nouns, unit vectors `[D]`, by noun."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as data:
            found.update(zip(data["names"].tolist(), torch.from_numpy(data["vectors"]), strict=True))
    return found
