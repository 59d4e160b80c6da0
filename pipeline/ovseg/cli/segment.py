"""What `ovseg segment` does: names, settings, images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from ovseg.clip.load import Precision
from ovseg.core import hashing
from ovseg.core.errors import OvsegError
from ovseg.core.options import SegmentOptions, Synonyms
from ovseg.core.text_files import read_text
from ovseg.core.vocabulary import Templates
from ovseg.engine.runtime import devices
from ovseg.evaluation.calibrate import Choice, read_choice
from ovseg.segmentation.image_files import list_images, segment_images
from ovseg.segmentation.segmenter import Classifier, Segmenter

log = logging.getLogger("ovseg")

SYNONYM = "|"
NAME_MAX = 255  # bytes of a file's name
DEFAULT = Choice(0.4, 0.7, "default, the paper's")


def segment_with(
    images: Sequence[Path],
    names: str,
    out: Path,
    clip: Path,
    network: Path,
    classifier: Classifier,
    weight: float | None,
    mask_threshold: float | None,
    others: bool | None,
    synonyms: Synonyms,
    templates: Templates,
    precision: Precision,
    device: str,
    batch_size: int,
) -> None:
    """Segment images and say what was done; see `ovseg segment --help`.

    Raises:
        OvsegError: names, paths or models that cannot be used.
        typer.Exit: some images could not be read.
    """
    classes, found = read_names(names), list_images(images)
    choice = _choice(clip, weight, mask_threshold)
    log.info("mask threshold %g, weight of CLIP %g (%s)", choice.mask_threshold, choice.weight, choice.source)
    segmenter = Segmenter.load(
        network,
        clip,
        devices(device)[0],
        mask_threshold=choice.mask_threshold,
        weight=choice.weight,
        options=SegmentOptions(templates=templates, synonyms=synonyms, precision=precision),
        batch_size=batch_size,
    )
    words = segmenter.vocabulary(classes, len(classes) == 1 if others is None else others)
    about: dict[str, Any] = {
        "classifier": classifier,
        "weight": choice.weight,
        "mask_threshold": choice.mask_threshold,
        "synonyms": synonyms,
        "templates": templates,
        "precision": precision,
        "clip": hashing.sha256_path(clip),
        "network": hashing.sha256_path(network),
    }
    counts = segment_images(segmenter, found, words, out, classifier, about)
    if dropped := sum(number for reason, number in counts.items() if reason.startswith("dropped.")):
        typer.echo(f"{dropped} of {len(found)} images could not be read; they are named above", err=True)
        raise typer.Exit(1)


def read_names(text: str) -> list[list[str]]:
    """Classes and their synonyms: "road | route, cat", or a file with a class a line.

    Raises:
        OvsegError: a file that cannot be read.
    """
    path = Path(text)
    if "," not in text and len(text.encode()) < NAME_MAX and path.is_file():
        try:
            lines = read_text(path).splitlines()
        except OSError as error:
            raise OvsegError(f"{path} is no text file of names: {error}") from None
        parts = [line for line in lines if line.strip()]
    else:
        parts = text.split(",") if text.strip() else []
    return [[name.strip() for name in part.split(SYNONYM)] for part in parts]


def _choice(clip: Path, weight: float | None, mask_threshold: float | None) -> Choice:
    """What `calibrate` chose for this CLIP, if it stands in the folder of a pipeline; what is given goes first."""
    report = clip.parent.parent / "reports" / "calibrate"
    try:
        return read_choice(report, clip.name, mask_threshold, weight)
    except OvsegError:
        given = DEFAULT.mask_threshold if mask_threshold is None else mask_threshold
        source = DEFAULT.source if weight is None and mask_threshold is None else "given"
        return Choice(given, DEFAULT.weight if weight is None else weight, source)
