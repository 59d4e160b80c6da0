"""The pair browser: one self-contained HTML page of mined pairs that a browser opens from the disk."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image
from scipy import ndimage

from ovseg.core import masks
from ovseg.core.errors import BadItem
from ovseg.core.image_records import COLUMNS, ImageRecord
from ovseg.core.images import ImageArray
from ovseg.core.masks import MaskArray
from ovseg.core.remote_files import make_folder
from ovseg.core.samples import sample_key
from ovseg.report.plots import similarity_histogram
from ovseg.report.sampling import (
    Row,
    pairs_by_image,
    read_index_rows,
    read_pairs,
    sample_pairs,
    similarities,
    split_caption,
)

log = logging.getLogger("ovseg")

LONG_SIDE = 208  # of a thumbnail, in pixels
OVERSAMPLING = 2  # the outline is drawn on a larger image and shrunk, so that it is smooth
LINES = (
    (3.0, (255, 224, 32)),
    (5.0, (16, 16, 24)),
)  # distance from the mask in drawn pixels and color, inner line first
BACKGROUND_BRIGHTNESS = 0.65  # factor on the pixels outside the mask
JPEG_QUALITY = 74


def write_browser(run: Path, images: Path, out: Path, number: int) -> None:
    """Write the page: a sample of the pairs with their images, which can be sorted and filtered.

    Args:
        run: the folder of the tables `index`, `pairs` and `proposals`.
        images: the folder that the files of the index are relative to.
        out: the HTML file.
        number: the number of pairs, about 12 kB each. Pairs whose image cannot be read are left out; the page says how many.

    Raises:
        OvsegError: a table is missing.
    """
    all_pairs = read_pairs(run / "pairs")
    chosen = sample_pairs(all_pairs, number)
    cards = [card for _, card in describe_pairs(run, images, chosen) if card is not None]
    counts, edges = similarity_histogram(similarities(all_pairs))
    data = {
        "cards": cards,
        "total": all_pairs.num_rows,
        "nouns": pc.count_distinct(all_pairs["noun"]).as_py(),
        "missing": len(chosen) - len(cards),
        "histogram": {"counts": counts.tolist(), "low": float(edges[0]), "high": float(edges[-1])},
    }
    _write_page(data, out)
    log.info("browser: %d pairs, %d without an image -> %s", len(cards), data["missing"], out)


def write_search(run: Path, images: Path, found: list[Row], query: str, out: Path) -> None:
    """Write the page of a search: the regions that were found, most similar first.

    Args:
        run: the folder of the tables `index` and `proposals`.
        images: the folder that the files of the index are relative to.
        found: the rows that `nearest_regions` returns.
        query: what was searched for, as the title of the page.
        out: the HTML file.

    Raises:
        OvsegError: a table is missing.
    """
    cards = [card for _, card in describe_pairs(run, images, found) if card is not None]
    counts, edges = similarity_histogram(np.array([row["similarity"] for row in found], np.float64))
    data = {
        "cards": cards,
        "title": query,
        "lead": f"The {len(cards)} nearest regions. The noun below each is the one of its caption that fits it best.",
        "histogram": {"counts": counts.tolist(), "low": float(edges[0]), "high": float(edges[-1])},
    }
    _write_page(data, out)


def _write_page(data: dict[str, Any], out: Path) -> None:
    template = resources.files(__package__).joinpath("browser.html").read_text(encoding="utf-8")
    # Without "<" no caption can end the script element that holds the data.
    embedded = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    make_folder(out.parent)
    out.write_text(template.replace("__DATA__", embedded, 1), encoding="utf-8")


def thumbnail(pixels: ImageArray, mask: MaskArray) -> bytes:
    """Return a small JPEG of an image with a mask outlined and the background darkened.

    Args:
        pixels: uint8 RGB `[H, W, 3]`.
        mask: bool `[H, W]` with at least one pixel.
    """
    height, width = mask.shape
    scale = LONG_SIDE / max(height, width)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    large = (small[0] * OVERSAMPLING, small[1] * OVERSAMPLING)
    canvas = np.asarray(Image.fromarray(pixels).resize(large, Image.Resampling.BICUBIC)).astype(np.float32)
    inside = _resize_mask(mask, large)
    canvas[~inside] *= BACKGROUND_BRIGHTNESS
    distance = ndimage.distance_transform_edt(~inside)
    inner = 0.0
    for outer, color in LINES:
        canvas[(distance > inner) & (distance <= outer)] = color
        inner = outer
    stream = io.BytesIO()
    image = Image.fromarray(canvas.astype(np.uint8)).resize(small, Image.Resampling.BOX)
    image.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)  # subsampling would blur the lines
    return stream.getvalue()


def _resize_mask(mask: MaskArray, size: tuple[int, int]) -> MaskArray:
    """A mask at another size (width, height); a mask that would vanish keeps one pixel."""
    soft = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR))
    inside: MaskArray = soft > 127
    if not inside.any():
        y, x = np.nonzero(mask)
        inside[y * size[1] // mask.shape[0], x * size[0] // mask.shape[1]] = True
    return inside


def describe_pairs(run: Path, images: Path, pairs: list[Row]) -> Iterator[tuple[Row, dict[str, Any] | None]]:
    """Describe pairs as the page shows them: numbers, caption, and a thumbnail as a JPEG in base64.

    Args:
        run: the folder of the tables `index` and `proposals`.
        images: the folder that the files of the index are relative to.
        pairs: rows of the table `pairs`.

    Yields:
        each pair, by image, and its data; None for data if its image cannot be read.
    """
    index_rows = read_index_rows(run / "index", pairs)
    for image_id, image_pairs, proposals in pairs_by_image(pairs, run / "proposals"):
        row = index_rows[image_id]
        record = ImageRecord(root=images, **{name: row[name] for name in COLUMNS})
        for pair in image_pairs:
            yield pair, _card(pair, row, record, proposals[pair["proposal"]])


def _card(pair: Row, row: Row, record: ImageRecord, proposal: Row) -> dict[str, Any] | None:
    try:
        pixels = record.pixels
    except BadItem:
        return None
    jpeg = thumbnail(pixels, masks.decode(proposal["rle"], record.height, record.width))
    return {
        "key": sample_key(pair["pair"]),
        "noun": pair["noun"],
        "caption": split_caption(pair, row),
        "similarity": _rounded(pair["similarity"]),
        "margin": _rounded(pair["margin"]),
        "area": round(proposal["area"] / (record.width * record.height), 5),
        "source": proposal["source"],
        "image": str(pair["image_id"]),
        "jpeg": base64.b64encode(jpeg).decode("ascii"),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
