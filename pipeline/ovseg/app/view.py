"""A segmentation as the page draws it (view.js), and the table of a region.

Shapes: H, W image; K classes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg.app.answers import Answer, Region
from ovseg.core.images import ImageArray
from ovseg.segmentation.image_files import class_records
from ovseg.segmentation.overlay import class_color

MAX_SIDE = 1024  # of the drawn image, in pixels
JPEG_QUALITY = 90


def describe_view(pixels: ImageArray, answers: Mapping[str, Answer]) -> dict[str, Any]:
    """Return what the page needs to draw an image with the labels of each model.

    Args:
        pixels: uint8 RGB `[H, W, 3]`.
        answers: the answer of each model by its name; all have the same classes.

    Returns:
        "width" and "height" of the image; "image", a data URL; "classes", the color and name of each of K classes; "models",
        a list of "name", "labels" (a data URL of a PNG: red + 256 * green is the class) and "found", the classes that occur,
        largest first, each with "label", "fraction", "score" and "x" and "y", the pixel of its highest score.
    """
    height, width = pixels.shape[:2]
    rows, columns = _shown(height, width)
    image = Image.fromarray(pixels)
    if (height, width) != (len(rows), len(columns)):
        image = image.resize((len(columns), len(rows)), Image.Resampling.BOX)
    names = next(iter(answers.values())).segmentation.names
    return {
        "width": width,
        "height": height,
        "image": _data_url(image, "jpeg"),
        "classes": [{"name": name, "color": list(class_color(k))} for k, name in enumerate(names)],
        "models": [
            {
                "name": name,
                "labels": _data_url(_label_image(answer.segmentation.labels[np.ix_(rows, columns)]), "png"),
                "found": _found(answer),
            }
            for name, answer in answers.items()
        ],
    }


def region_tables(regions: Mapping[str, Region]) -> str:
    """Return an HTML table for each model: the words of a region with the scores of both classifiers and their ensemble."""
    return "".join(_region_table(name, region) for name, region in regions.items())


def message(text: str, problem: bool = False) -> str:
    """Return a message as HTML; a problem is announced at once by screen readers."""
    return f'<p class="message{" problem" if problem else ""}" role="{"alert" if problem else "status"}">{escape(text)}</p>'


def _shown(height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows and columns of the image that are drawn: all, or the middles of equal cells."""
    scale = min(1.0, MAX_SIDE / max(height, width))
    sizes = (max(1, round(height * scale)), max(1, round(width * scale)))
    rows, columns = (
        ((np.arange(size) + 0.5) * full / size).astype(np.int64)
        for size, full in zip(sizes, (height, width), strict=True)
    )
    return rows, columns


def _label_image(labels: NDArray[np.uint16]) -> Image.Image:
    channels = (labels & 255, labels >> 8, np.zeros_like(labels))
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def _data_url(image: Image.Image, kind: str) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, quality=JPEG_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _found(answer: Answer) -> list[dict[str, Any]]:
    found = []
    for record in class_records(answer.segmentation):
        scores = np.where(answer.segmentation.labels == record["label"], answer.segmentation.pixel_scores, -1)
        y, x = np.unravel_index(int(scores.argmax()), scores.shape)
        found.append({**{key: record[key] for key in ("label", "fraction", "score")}, "x": int(x), "y": int(y)})
    return found


def _region_table(name: str, region: Region) -> str:
    head = "".join(f'<th scope="col">{title}</th>' for title in ("word", "ensemble", "CLIP", "proposals"))
    body = "".join(
        f'<tr><th scope="row">{escape(word)}</th>{"".join(map(_cell, scores))}</tr>' for word, *scores in region.rows
    )
    caption = f"<caption>{escape(name)}: {100 * region.area:.1f}\u00a0% of the image</caption>"
    return f'<table class="region">{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _cell(score: float | None) -> str:
    return f"<td>{'-' if score is None else f'{score:.3f}'}</td>"
