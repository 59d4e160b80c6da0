"""Overlays: image, truth, the base CLIP's map and the result's, side by side with one legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ovseg.core.errors import BadItem
from ovseg.core.images import ImageArray
from ovseg.datasets.benchmark import Benchmark
from ovseg.segmentation.overlay import beside, class_colour, paint
from ovseg.segmentation.segmenter import Segmenter

SIDE = 240  # of a panel's longer side, in pixels
TITLE, GAP = 24, 8


def write_overlays(segmenters: Mapping[str, Segmenter], benchmark: Benchmark, out: Path, number: int) -> list[Path]:
    """Write some images of a benchmark with their truth and the maps of some segmenters.

    Args:
        segmenters: by the title of their panel; one vocabulary, that of the benchmark.
        benchmark: the images are spread evenly over it, whatever comes out.
        out: folder, made if needed; what lay in it goes.
        number: how many.

    Returns:
        the files.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.png"):
        old.unlink()
    names = [some[0] for some in benchmark.names]
    words = next(iter(segmenters.values())).vocabulary(benchmark.names)
    places = np.linspace(0, len(benchmark.items) - 1, min(number, len(benchmark.items))).round().astype(int)
    written = []
    for place in places.tolist():
        try:
            pixels, truth = benchmark.read(place)
        except BadItem:  # evaluate has counted it
            continue
        labels: dict[str, NDArray[np.integer]] = {"truth": truth}
        labels |= {title: one.segment_with(pixels, words).labels for title, one in segmenters.items()}
        path = out / f"{Path(benchmark.items[place][1]).stem}.png"
        sheet(pixels, labels, names).save(path)
        written.append(path)
    return written


def sheet(pixels: ImageArray, labels: Mapping[str, NDArray[np.integer]], names: Sequence[str]) -> Image.Image:
    """One image and its maps, each under its title, with a legend of the classes in any of them.

    Args:
        pixels: uint8 `[H, W, 3]`.
        labels: by title, `[H, W]`; numbers beyond the classes are grey.
        names: of the K classes.
    """
    panels = {"image": pixels} | {title: paint(pixels, some, len(names)) for title, some in labels.items()}
    scale = SIDE / max(pixels.shape[:2])
    width, height = (max(1, round(side * scale)) for side in pixels.shape[1::-1])
    whole = Image.new("RGB", (len(panels) * (width + GAP) - GAP, height + TITLE), "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(14)
    for i, (title, panel) in enumerate(panels.items()):
        x = i * (width + GAP)
        pen.text((x, 3), title, fill="black", font=font)
        whole.paste(Image.fromarray(panel).resize((width, height), Image.Resampling.LANCZOS), (x, TITLE))
    there = sorted({int(n) for some in labels.values() for n in np.unique(some) if n < len(names)})
    return beside(whole, [(class_colour(n), names[n]) for n in there])
