"""A label map drawn over its image: class colors, white borders and a legend.

Shapes: H, W image; K classes.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ovseg.core.images import ImageArray

Color = tuple[int, int, int]

GREY: Color = (128, 128, 128)  # of labels that are no class
HUE_STEP = 0.618034  # golden ratio: classes with consecutive numbers get very different hues
OPACITY = 0.55
LINE_HEIGHT, MARGIN = 26, 12  # of the legend, in pixels
MIN_SIDE = 320  # smaller images are enlarged, so that they are not tiny beside the legend
MAX_SCALE = 8
MAX_ROWS = 24


def class_color(number: int) -> Color:
    """Return the color of a class; it depends on the number of the class alone, so it is the same in every image."""
    hue = (0.02 + number * HUE_STEP) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.6, 0.95)[number % 3], (0.95, 0.9, 0.7)[number // 3 % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def blend_labels(pixels: ImageArray, labels: NDArray[np.integer], num_classes: int) -> ImageArray:
    """Blend an image with the colors of its labels, and draw white borders between different labels.

    Args:
        pixels: uint8 RGB `[H, W, 3]`.
        labels: `[H, W]`, the class of each pixel; a label of at least K is no class and gray.
        num_classes: K.

    Returns:
        uint8 RGB `[H, W, 3]`.
    """
    colors = np.array([*(class_color(number) for number in range(num_classes)), GREY], np.float32)
    rows = np.minimum(labels.astype(np.int64), num_classes)
    blended = pixels * (1 - OPACITY) + colors[rows] * OPACITY
    border = np.zeros(labels.shape, bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    blended[border] = 255
    return blended.round().astype(np.uint8)


def draw_overlay(pixels: ImageArray, labels: NDArray[np.integer], names: Sequence[str]) -> Image.Image:
    """Draw the labels over the image, with a legend of the classes that occur, largest first.

    Args:
        pixels: uint8 RGB `[H, W, 3]`.
        labels: `[H, W]`, the class of each pixel.
        names: the names of K classes.
    """
    image = _enlarge(Image.fromarray(blend_labels(pixels, labels, len(names))))
    numbers, counts = np.unique(labels, return_counts=True)
    fractions = zip(numbers.tolist(), (counts / labels.size).tolist(), strict=True)
    rows = [
        (class_color(number), f"{names[number]}  {fraction:.0%}" if fraction >= 0.01 else names[number])
        for number, fraction in sorted(fractions, key=lambda row: -row[1])
        if number < len(names)
    ]
    return add_legend(image, rows)


def add_legend(image: Image.Image, rows: Sequence[tuple[Color, str]]) -> Image.Image:
    """Return the image with a legend at its right side.

    Args:
        image: the image.
        rows: color and text of each row; if there are more than `MAX_ROWS`, the last row says how many are left out.
    """
    shown, num_hidden = rows[:MAX_ROWS], len(rows) - MAX_ROWS
    lines = [*shown, *([(GREY, f"and {num_hidden} more")] if num_hidden > 0 else [])]
    font = ImageFont.load_default(16)
    width = max((round(font.getlength(text)) for _, text in lines), default=0) + 2 * MARGIN + LINE_HEIGHT
    height = max(image.height, 2 * MARGIN + LINE_HEIGHT * len(lines))
    canvas = Image.new("RGB", (image.width + width, height), "white")
    canvas.paste(image, (0, (height - image.height) // 2))
    draw = ImageDraw.Draw(canvas)
    for i, (color, text) in enumerate(lines):
        x, y = image.width + MARGIN, MARGIN + i * LINE_HEIGHT
        draw.rounded_rectangle((x, y + 3, x + LINE_HEIGHT - 8, y + LINE_HEIGHT - 5), 4, fill=color)
        draw.text((x + LINE_HEIGHT, y + 2), text, fill="black", font=font)
    return canvas


def _enlarge(image: Image.Image) -> Image.Image:
    scale = min(MIN_SIDE / max(image.size), MAX_SCALE)
    if scale <= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST)
