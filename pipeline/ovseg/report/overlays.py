"""Overlay sheets: an image, its ground truth and the label maps of some models side by side, with one legend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ovseg.core.images import ImageArray
from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.datasets.benchmark import Benchmark
from ovseg.engine.runtime import Runtime
from ovseg.evaluation import region_table
from ovseg.evaluation.benchmark_units import unit_of
from ovseg.evaluation.calibrate import Choice
from ovseg.evaluation.predictions import embed_classes, predict_images
from ovseg.evaluation.region_rows import embeddings_of_unit
from ovseg.evaluation.region_store import RegionName
from ovseg.evaluation.settings import EvalSetting
from ovseg.evaluation.store import open_store
from ovseg.segmentation.overlay import Color, add_legend, blend_labels, class_color
from ovseg.segmentation.segmenter import load_segmenters

PANEL_SIDE, TITLE_HEIGHT, GAP = 240, 24, 8  # longer side of a panel, in pixels

LabelMap = NDArray[np.uint16]


class Sheet(NamedTuple):
    """An image and its label maps, drawn.

    Attributes:
        name: the name of the image, with its folders and without its suffix.
        panels: panels of equal size by their titles: the image, its ground truth, then the label maps.
        legend: color and name of each class in any label map.
        caption: a sentence about it; may be empty.
    """

    name: str
    panels: Mapping[str, Image.Image]
    legend: Sequence[tuple[Color, str]]
    caption: str = ""


def segment_items(
    network: Path,
    clips: Mapping[str, Path],
    benchmark: Benchmark,
    items: Sequence[int],
    choices: Mapping[str, Choice],
    runtime: Runtime,
    options: SegmentOptions,
    crop: CropOptions,
    embeddings: Path,
) -> Iterator[tuple[int, ImageArray, dict[str, LabelMap]]]:
    """Segment some images of a benchmark with the ensemble of each CLIP, as `evaluate` does.

    Args:
        network: the folder of the proposal network.
        clips: the folders of the CLIPs by name; all have the same input size and text tower.
        benchmark: the benchmark.
        items: the numbers of the images; they can be read.
        choices: the mask threshold and the weight of each CLIP.
        runtime: device, batch size, workers, and the folder of unfinished work.
        options, crop: how images are segmented, and the crop recipe.
        embeddings: the embeddings of the benchmark's masks that `evaluate` has read, see there.

    Yields:
        the number of the image, its pixels uint8 RGB `[H, W, 3]`, and label maps `[H, W]`: "ground truth", and by CLIP.
    """
    device = runtime.devices[0]
    segmenters = load_segmenters(
        network, clips, device, options=options, crop=crop, batch_size=runtime.batch_size, workers=runtime.workers
    )
    vocabularies = embed_classes(segmenters, benchmark)
    store = open_store(runtime.work, network, clips, options, crop, device)
    settings = [EvalSetting(clip, choices[clip].mask_threshold, "ensemble", choices[clip].weight) for clip in clips]
    images = [benchmark.read(item) for item in items]
    region_table.check(embeddings, clips, options, crop)
    embedded: dict[RegionName, Tensor] = {}
    for unit in dict.fromkeys(unit_of(item) for item in items):
        embedded |= embeddings_of_unit(embeddings, unit, list(clips))
    predicted = predict_images(segmenters, settings, images, vocabularies, benchmark, False, store, embedded)
    for item, (pixels, gt), predictions in zip(items, images, predicted, strict=True):
        labels = {prediction.model: prediction.labels for prediction in predictions}
        yield item, pixels, {"ground truth": gt} | {clip: labels[clip] for clip in clips}


def make_sheet(
    name: str, pixels: ImageArray, labels: Mapping[str, LabelMap], names: Sequence[str], caption: str = ""
) -> Sheet:
    """Draw an image and its label maps.

    Args:
        name: the name of the image.
        pixels: uint8 RGB `[H, W, 3]`.
        labels: label maps `[H, W]` by title; a label of at least K is no class and gray.
        names: the names of K classes.
        caption: a sentence about it.
    """
    scale = PANEL_SIDE / max(pixels.shape[:2])
    width, height = (max(1, round(side * scale)) for side in pixels.shape[1::-1])
    drawn = {"image": pixels} | {title: blend_labels(pixels, map_, len(names)) for title, map_ in labels.items()}
    panels = {
        title: Image.fromarray(panel).resize((width, height), Image.Resampling.LANCZOS)
        for title, panel in drawn.items()
    }
    classes = sorted({int(number) for map_ in labels.values() for number in np.unique(map_) if number < len(names)})
    return Sheet(name, panels, [(class_color(number), names[number]) for number in classes], caption)


def write_sheets(sheets: Sequence[Sheet], out: Path) -> None:
    """Write each sheet as a PNG file; `out` is created if it does not exist, and old PNG files in it are deleted.

    Files are named after the images, with "_" between the names of their folders.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.png"):
        old.unlink()
    for sheet in sheets:
        draw_sheet(sheet).save(out / f"{sheet.name.replace('/', '_')}.png")


def draw_sheet(sheet: Sheet) -> Image.Image:
    """Draw the panels of a sheet side by side on white, each under its title, with the legend at the right."""
    width, height = next(iter(sheet.panels.values())).size
    canvas = Image.new("RGB", (len(sheet.panels) * (width + GAP) - GAP, height + TITLE_HEIGHT), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for i, (title, panel) in enumerate(sheet.panels.items()):
        x = i * (width + GAP)
        draw.text((x, 3), title, fill="black", font=font)
        canvas.paste(panel, (x, TITLE_HEIGHT))
    return add_legend(canvas, sheet.legend)
