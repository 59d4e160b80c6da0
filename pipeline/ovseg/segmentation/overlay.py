"""A map of labels as an image that a person reads: colours over the photograph, borders, a legend. H, W image."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ovseg.core.images import ImageArray

Colour = tuple[int, int, int]

GREY: Colour = (128, 128, 128)  # of what is no class
GOLDEN = 0.618034  # turns of hue between two classes: neighbours in number are far apart in colour
STRENGTH = 0.55  # of a colour over the image
LINE, MARGIN = 26, 12  # pixels of the legend
LEAST_SIDE, MOST_ROWS = 320, 24


def class_colour(number: int) -> Colour:
    """The colour of class `number`: the same everywhere."""
    hue = (0.02 + number * GOLDEN) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.6, 0.95)[number % 3], (0.95, 0.9, 0.7)[number // 3 % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def paint(pixels: ImageArray, labels: NDArray[np.integer], classes: int) -> ImageArray:
    """The image `[H, W, 3]` under the colours of its classes, with borders; grey where a label is no class."""
    table = np.array([*(class_colour(number) for number in range(classes)), GREY], np.float32)
    place = np.minimum(labels.astype(np.int64), classes)
    mixed = pixels * (1 - STRENGTH) + table[place] * STRENGTH
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    mixed[border] = 255
    return mixed.round().astype(np.uint8)


def overlay(pixels: ImageArray, labels: NDArray[np.integer], names: Sequence[str]) -> Image.Image:
    """The painted image with a legend of the classes in it, largest first.

    Args:
        pixels: uint8 `[H, W, 3]`.
        labels: classes `[H, W]`.
        names: of the K classes.
    """
    painted = _enlarged(Image.fromarray(paint(pixels, labels, len(names))))
    numbers, counts = np.unique(labels, return_counts=True)
    order = sorted(zip(numbers.tolist(), (counts / labels.size).tolist(), strict=True), key=lambda row: -row[1])
    rows = [
        (class_colour(n), f"{names[n]}  {share:.0%}" if share >= 0.01 else names[n])
        for n, share in order
        if n < len(names)
    ]
    return beside(painted, rows)


def beside(image: Image.Image, rows: Sequence[tuple[Colour, str]]) -> Image.Image:
    """An image with a legend at its right."""
    shown, left = rows[:MOST_ROWS], len(rows) - MOST_ROWS
    lines = [*shown, *([(GREY, f"and {left} more")] if left > 0 else [])]
    font = ImageFont.load_default(16)
    width = max((round(font.getlength(text)) for _, text in lines), default=0) + 2 * MARGIN + LINE
    height = max(image.height, 2 * MARGIN + LINE * len(lines))
    whole = Image.new("RGB", (image.width + width, height), "white")
    whole.paste(image, (0, (height - image.height) // 2))
    pen = ImageDraw.Draw(whole)
    for i, (colour, text) in enumerate(lines):
        x, y = image.width + MARGIN, MARGIN + i * LINE
        pen.rounded_rectangle((x, y + 3, x + LINE - 8, y + LINE - 5), 4, fill=colour)
        pen.text((x + LINE, y + 2), text, fill="black", font=font)
    return whole


def _enlarged(image: Image.Image) -> Image.Image:
    """A small image, enlarged so that it is as large as its legend is readable."""
    scale = min(LEAST_SIDE / max(image.size), 8)
    if scale <= 1:
        return image
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.NEAREST
    )
