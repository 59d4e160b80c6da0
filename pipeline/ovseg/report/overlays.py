"""Overlay sheets: an image, its ground truth and the label maps of some segmenters side by side, with one legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ovseg.core.errors import BadItem
from ovseg.core.images import ImageArray
from ovseg.datasets.benchmark import Benchmark
from ovseg.evaluation.predictions import embed_classes
from ovseg.segmentation.overlay import add_legend, blend_labels, class_color
from ovseg.segmentation.segmenter import Segmenter

PANEL_SIDE, TITLE_HEIGHT, GAP = 240, 24, 8  # longer side of a panel, in pixels


def write_overlays(segmenters: Mapping[str, Segmenter], benchmark: Benchmark, out: Path, number: int) -> list[Path]:
    """Write overlay sheets of some images of a benchmark.

    Args:
        segmenters: the segmenters by the title of their panel; all have the same text tower.
        benchmark: its images are taken at equal distances, not chosen by their results.
        out: the folder to write to; it is created if it does not exist, and old PNG files in it are deleted.
        number: the number of images.

    Returns:
        the files.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.png"):
        old.unlink()
    names = [class_names[0] for class_names in benchmark.names]
    vocabularies = embed_classes(segmenters, benchmark)
    items = np.linspace(0, len(benchmark.items) - 1, min(number, len(benchmark.items))).round().astype(int)
    written = []
    for item in items.tolist():
        try:
            pixels, gt = benchmark.read(item)
        except BadItem:  # the stage `evaluate` has counted it
            continue
        labels: dict[str, NDArray[np.integer]] = {"ground truth": gt}
        for title, segmenter in segmenters.items():
            labels[title] = segmenter.segment_with(pixels, vocabularies[title]).labels
        path = out / f"{Path(benchmark.items[item][1]).stem}.png"
        draw_sheet(pixels, labels, names).save(path)
        written.append(path)
    return written


def draw_sheet(pixels: ImageArray, labels: Mapping[str, NDArray[np.integer]], names: Sequence[str]) -> Image.Image:
    """Draw an image and its label maps side by side, each under its title, with a legend of the classes in any of them.

    Args:
        pixels: uint8 RGB `[H, W, 3]`.
        labels: label maps `[H, W]` by title; a label of at least K is no class and gray.
        names: the names of K classes.
    """
    panels = {"image": pixels} | {title: blend_labels(pixels, map_, len(names)) for title, map_ in labels.items()}
    scale = PANEL_SIDE / max(pixels.shape[:2])
    width, height = (max(1, round(side * scale)) for side in pixels.shape[1::-1])
    canvas = Image.new("RGB", (len(panels) * (width + GAP) - GAP, height + TITLE_HEIGHT), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for i, (title, panel) in enumerate(panels.items()):
        x = i * (width + GAP)
        draw.text((x, 3), title, fill="black", font=font)
        resized = Image.fromarray(panel).resize((width, height), Image.Resampling.LANCZOS)
        canvas.paste(resized, (x, TITLE_HEIGHT))
    classes = sorted({int(number) for map_ in labels.values() for number in np.unique(map_) if number < len(names)})
    return add_legend(canvas, [(class_color(number), names[number]) for number in classes])
