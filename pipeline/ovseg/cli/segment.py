"""What `ovseg segment` does: reads the names, finds what was calibrated, segments the images."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import typer

from ovseg.cli.options import HIDDEN
from ovseg.core import hashing
from ovseg.core.errors import OvsegError
from ovseg.core.files import expand_home
from ovseg.core.options import CropOptions, Options, Orientation, SegmentOptions
from ovseg.core.text_files import read_text
from ovseg.engine.runtime import devices
from ovseg.evaluation.calibrate import Choice, find_calibrated, read_choice
from ovseg.segmentation.class_names import split_names
from ovseg.segmentation.image_files import list_images, segment_images
from ovseg.segmentation.segmenter import Classifier, Segmenter

log = logging.getLogger("ovseg")

FILE_NAME = re.compile(r"\.(txt|csv|tsv|json|jsonl|ya?ml|names?|list|lst|text|md|data)$", re.IGNORECASE)
PATH = re.compile(r"(\.{0,2}|~[^/]*|[A-Za-z]:)[/\\].+")
"""An absolute path, or one from this folder or a home folder. Other texts with a slash can be names ("tv/monitor")."""
DEFAULT = Choice(mask_threshold=0.4, weight=0.7, source="default, the paper's")

M = TypeVar("M", bound=Options)


class Settings(NamedTuple):
    """How a CLIP and a proposal network segment."""

    choice: Choice
    options: SegmentOptions
    crop: CropOptions


def segment_with(
    *,
    images: Sequence[Path],
    names: str,
    out: Path,
    clip: Path,
    network: Path,
    classifier: Classifier,
    weight: float | None,
    mask_threshold: float | None,
    others: bool | None,
    options: SegmentOptions,
    crop: CropOptions,
    device: str,
    batch_size: int,
    orientation: Orientation = "exif",
) -> None:
    """Segment images and write what was found to `out`.

    Args:
        images: image files, and folders of them.
        names: see `read_names`.
        out: folder of overlays, label maps and JSON files.
        clip: folder of the CLIP.
        network: folder of the proposal network.
        classifier: what classifies proposals.
        weight: weight of CLIP in the ensemble, in [0, 1]; None for the calibrated one.
        mask_threshold: probability above which a pixel of a mask is foreground; None for the calibrated one.
        others: whether there is one more class, for what has none of the names; None if only one name is given.
        options, crop: how an image is segmented, and the crop recipe; see `find_settings` for fields that are not set.
        device: torch device, or "auto".
        batch_size: number of crops that CLIP is given at a time; it changes no result.
        orientation: whether images are turned as their EXIF metadata say, or used as stored.

    Raises:
        OvsegError: names, paths or models cannot be used.
        typer.Exit: some images could not be read; the others are segmented.
    """
    classes, files = read_names(names), list_images(images)
    choice, options, crop = find_settings(network, clip, options, crop, weight, mask_threshold)
    log.info("mask threshold %g, weight of CLIP %g (%s)", choice.mask_threshold, choice.weight, choice.source)
    segmenter = Segmenter.load(
        network,
        clip,
        devices(device)[0],
        mask_threshold=choice.mask_threshold,
        weight=choice.weight,
        options=options,
        crop=crop,
        batch_size=batch_size,
    )
    vocabulary = segmenter.vocabulary(classes, len(classes) == 1 if others is None else others)
    settings: dict[str, Any] = {
        "classifier": classifier,
        "weight": choice.weight,
        "mask_threshold": choice.mask_threshold,
        **options.model_dump(exclude=set(HIDDEN[SegmentOptions])),
        **crop.model_dump(),
        "clip": hashing.sha256_path(clip),
        "network": hashing.sha256_path(network),
    }
    counts = segment_images(segmenter, files, vocabulary, out, classifier, settings, orientation)
    if dropped := sum(number for reason, number in counts.items() if reason.startswith("dropped.")):
        typer.echo(f"{dropped} of {len(files.images)} images could not be read; the messages above name them", err=True)
        raise typer.Exit(1)


def read_names(text: str) -> list[list[str]]:
    """Read classes, each with its synonyms.

    Args:
        text: the classes, separated by commas, with "|" between synonyms ("road | route, cat"); or the path of a file with one
            class per line. A single class whose name looks like a path ends with a comma.

    Returns:
        the names of each class.

    Raises:
        OvsegError: the file does not exist, cannot be read as text, or contains no names.
    """
    path = Path(expand_home(text))
    if os.path.isfile(path):  # noqa: PTH113 - unlike Path.is_file, it accepts any text
        try:
            lines = read_text(path).splitlines()
        except OSError as error:
            raise OvsegError(f"{path} cannot be read as a text file of names: {error}") from None
        parts = [line for line in lines if line.strip()]
        if not parts:
            raise OvsegError(f"{path} contains no names; write one class per line into it")
    else:
        parts = text.removesuffix(",").split(",") if text.strip() else []
        _refuse_paths([part.strip() for part in parts], text)
    return split_names(parts)


def _refuse_paths(parts: Sequence[str], text: str) -> None:
    """Raise OvsegError if a name is that of a file: it does not exist, or stands in a list of names."""
    paths = [part for part in parts if FILE_NAME.search(part) or (len(parts) == 1 and _looks_like_path(part))]
    if paths and not (len(parts) == 1 and text.rstrip().endswith(",")):
        raise OvsegError(
            f"--names {text!r}: there is no file {paths[0]!r}; give the path of a file with one class per line, and nothing "
            f'else. A class of this name is given alone, with a comma behind it: "{paths[0]},"'
        )


def _looks_like_path(part: str) -> bool:
    folder = os.path.dirname(part)  # noqa: PTH120 - as above
    return PATH.fullmatch(part) is not None or (folder != "" and os.path.isdir(folder))  # noqa: PTH112


def find_settings(
    network: Path,
    clip: Path,
    options: SegmentOptions,
    crop: CropOptions,
    weight: float | None = None,
    mask_threshold: float | None = None,
) -> Settings:
    """How a CLIP and a proposal network segment: as given, else as `calibrate` chose for and segmented with the same two.

    What `calibrate` wrote is found in the folder of the pipeline, which holds models/ and reports/. Where it has not chosen for
    them, weight and threshold are the paper's.

    Args:
        network: the folder of the proposal network.
        clip: the folder of the CLIP, such as models/prompt.
        options, crop: the fields that are set count.
        weight, mask_threshold: None for those that were calibrated.

    Raises:
        OvsegError: what `calibrate` wrote cannot be read.
    """
    clip = Path(os.path.abspath(clip))  # noqa: PTH100 - reports/ lies beside a link to models/, not beside its target
    report = clip.parent.parent / "reports" / "calibrate"
    calibrated = find_calibrated(report, network, clip)
    if calibrated is None:
        return Settings(DEFAULT.override(mask_threshold, weight), options, crop)
    choice = read_choice(report, calibrated.model, mask_threshold, weight)
    return Settings(choice, _complete(options, calibrated.options), _complete(crop, calibrated.crop))


def _complete(given: M, calibrated: M) -> M:
    """The fields that are set in one model, the others as in another."""
    return type(given)(**{**calibrated.model_dump(), **given.model_dump(exclude_unset=True)})
