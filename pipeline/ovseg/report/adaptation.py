"""What an adaptation did to mask accuracy: metrics.json, and rows for `dvc plots`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from ovseg.clip.adapted import load_adapted
from ovseg.core import crops
from ovseg.core.files import write_tsv
from ovseg.core.vocabulary import Templates
from ovseg.evaluation.mask_accuracy import measure
from ovseg.training.loop import CURVES

Scores = Mapping[str, Mapping[str, float]]


def write_adaptation(
    init: Path,
    model: Path,
    images: Path,
    truth: Path,
    out: Path,
    *,
    device: str,
    batch_size: int,
    fill: crops.Fill,
    antialias: bool,
    templates: Templates,
    limit: int | None,
) -> None:
    """Measure a CLIP before and after a training stage, with and without its mask prompts, and write to `out`.

    metrics.json        {"init": scores, "model": scores, "model_without_prompts": scores}; see `measure`
    mask_accuracy.tsv   clip, nouns, mask_accuracy
    training.tsv        step, loss, learning_rate, logit_scale

    Args:
        init, model: folders of the CLIP that the stage began with and of the one that it made.
        images, truth, fill, antialias, templates, limit, batch_size: see `measure`.
        out: folder; made if needed.
        device: torch device.

    Raises:
        OvsegError: as `measure` and `load_adapted`.
    """
    after = load_adapted(model, device)
    clips = {"init": load_adapted(init, device), "model": after}
    if after.prompts is not None:
        clips["model_without_prompts"] = load_adapted(model, device, prompts=False)
    scores = measure(
        clips, images, truth, fill=fill, antialias=antialias, templates=templates, batch_size=batch_size, limit=limit
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    header, *rows = bars(scores)
    write_tsv(out / "mask_accuracy.tsv", header, rows)
    shutil.copyfile(model / CURVES, out / CURVES)


def bars(scores: Scores) -> list[tuple[str, str, str]]:
    """A header, and one row for each CLIP and group of nouns; a share that could not be measured has none."""
    rows = [("clip", "nouns", "mask_accuracy")]
    for name, shares in scores.items():
        for suffix, group in (("", "all"), ("_annotated", "annotated"), ("_not_annotated", "not annotated")):
            share = shares.get(f"mask_accuracy{suffix}")
            if share is not None:
                rows.append((f"{name}, {group}", group, f"{share:.4f}"))
    return rows
