"""How many copies of a benchmark's images `near_duplicates` finds, and how many other images; writes a table of docs/pairs.md.

    dvc repro data/demo/dvc.yaml && python -m experiments.copies             the demo's benchmark and its mined images
    python -m experiments.copies --images FOLDER --mined FOLDER --clip CLIP  other ones; the table is only printed

Images that are in both folders under one name are one image, and are not compared.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.tables import replace_table
from ovseg.clip.load import Clip, load_clip
from ovseg.clip.regions import squash_image
from ovseg.core.folders import walk_images
from ovseg.core.images import ImageArray, decode_image, read_bytes
from ovseg.core.options import NearDuplicatesOptions
from ovseg.core.perceptual_hash import hash_distances, perceptual_hashes
from ovseg.mining.near_duplicates import embed_whole
from ovseg.report.metric_tables import markdown

DOCUMENT = Path("docs/pairs.md")
NAME = "python -m experiments.copies"
OTHERS = "other mined images"
HEADER = ["copy", "bits that differ, 95% below", "similarity, 95% above", "near hash", "found"]


def encoded(pixels: ImageArray, quality: int) -> ImageArray:
    """An image after JPEG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return decode_image(stream.getvalue())


def resized(pixels: ImageArray, width: float, height: float) -> ImageArray:
    """An image with its sides multiplied by factors."""
    sides = round(width * pixels.shape[1]), round(height * pixels.shape[0])
    return np.asarray(Image.fromarray(pixels).resize(sides))


def cropped(pixels: ImageArray, fraction: float) -> ImageArray:
    """An image without a fraction of its width and height at each side."""
    y, x = (round(fraction * side) for side in pixels.shape[:2])
    return pixels[y : pixels.shape[0] - y, x : pixels.shape[1] - x]


def mirrored(pixels: ImageArray) -> ImageArray:
    """An image with its left side on the right."""
    return np.ascontiguousarray(pixels[:, ::-1])


COPIES: Mapping[str, Callable[[ImageArray], ImageArray]] = {
    "JPEG of quality 50": lambda pixels: encoded(pixels, 50),
    "JPEG of quality 20": lambda pixels: encoded(pixels, 20),
    "half the size": lambda pixels: resized(pixels, 0.5, 0.5),
    "80% of the width": lambda pixels: resized(pixels, 0.8, 1),
    "mirrored": mirrored,
    "20% darker": lambda pixels: (0.8 * pixels).astype(np.uint8),
    "2% of each side cut off": lambda pixels: cropped(pixels, 0.02),
    "4% of each side cut off": lambda pixels: cropped(pixels, 0.04),
    "8% of each side cut off": lambda pixels: cropped(pixels, 0.08),
    "gray": lambda pixels: np.asarray(Image.fromarray(pixels).convert("L").convert("RGB")),
}


class Compared(NamedTuple):
    """Pairs of images.

    Attributes:
        distances: number of bits in which their hashes differ, of the nearer of image and mirror image, `[N]`.
        similarities: cosine of the same ones, `[N]`.
    """

    distances: NDArray[np.uint8]
    similarities: NDArray[np.float32]

    def near(self, options: NearDuplicatesOptions) -> NDArray[np.bool_]:
        """Which pairs CLIP compares."""
        near: NDArray[np.bool_] = self.distances <= options.max_distance
        return near

    def found(self, options: NearDuplicatesOptions) -> NDArray[np.bool_]:
        """Which pairs are near-duplicates."""
        return self.near(options) & (self.similarities >= options.min_similarity)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, and write or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of images that are copied; the demo's benchmark")
    parser.add_argument("--mined", type=Path, help="folder of other images; the demo's mined ones")
    parser.add_argument("--clip", default="local-dir:data/demo/clip", help="a CLIP of open_clip, or local-dir:FOLDER")
    options = parser.parse_args(arguments)
    images = options.images or Path("data/demo/benchmark/images")
    mined = options.mined or Path("data/demo/train/images")
    text = table(compare(images, mined, load_clip(options.clip)))
    print(text)
    if options.images is None:
        DOCUMENT.write_text(replace_table(DOCUMENT.read_text(encoding="utf-8"), NAME, text), encoding="utf-8")


def compare(images: Path, mined: Path, clip: Clip) -> dict[str, Compared]:
    """Compare each image with its copies, and with all mined images of another name (`OTHERS`).

    Args:
        images: the folder of the images.
        mined: the folder of the mined images.
        clip: the CLIP that compares whole images.
    """
    names, other_names = walk_images(images).images, walk_images(mined).images
    originals = _Images.of((_decoded(images, names)), clip)
    compared = {name: originals.with_copies(_decoded(images, names), copy, clip) for name, copy in COPIES.items()}
    others = _Images.of(_decoded(mined, other_names), clip)
    differ = np.array(names)[:, None] != np.array(other_names)
    compared[OTHERS] = originals.with_all(others, differ)
    return compared


class _Images(NamedTuple):
    """N images: hashes `[N, 2]` and unit vectors `[N, 2, D]`, of each and of its mirror image."""

    hashes: NDArray[np.uint64]
    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, decoded: Iterator[ImageArray], clip: Clip) -> _Images:
        hashes, vectors = [], []
        for pixels in decoded:
            squashed = squash_image(pixels, clip.size)
            hashes.append(perceptual_hashes(pixels))
            vectors.append([squashed, squashed.flip(-1)])
        flat = embed_whole(clip, (image for pair in vectors for image in pair)).numpy()
        return cls(np.stack(hashes), flat.reshape(len(hashes), 2, -1))

    def with_copies(
        self, decoded: Iterator[ImageArray], copy: Callable[[ImageArray], ImageArray], clip: Clip
    ) -> Compared:
        copies = _Images.of(map(copy, decoded), clip)
        distances = hash_distances(copies.hashes, self.hashes[:, :1])
        similarities = np.einsum("nd,nmd->nm", copies.vectors[:, 0], self.vectors)
        return _nearer(distances, similarities)

    def with_all(self, others: _Images, differ: NDArray[np.bool_]) -> Compared:
        distances = hash_distances(others.hashes[None], self.hashes[:, None, :1])[differ]
        similarities = np.einsum("od,nmd->nom", others.vectors[:, 0], self.vectors)[differ]
        return _nearer(distances, similarities)


def _nearer(distances: NDArray[np.uint8], similarities: NDArray[np.float32]) -> Compared:
    """The values `[N]` of the nearer hash of `[N, 2]`."""
    rows, nearer = np.arange(len(distances)), distances.argmin(axis=1)
    return Compared(distances[rows, nearer], similarities[rows, nearer])


def _decoded(folder: Path, names: Sequence[str]) -> Iterator[ImageArray]:
    return (decode_image(read_bytes(folder, name)) for name in names)


def table(compared: Mapping[str, Compared]) -> str:
    """The comparisons as rows of Markdown, with the default thresholds."""
    options, rows = NearDuplicatesOptions(), [HEADER]
    for name, pairs in compared.items():
        near, found = pairs.near(options), pairs.found(options)
        if name == OTHERS:
            rows.append([f"{name}, {len(near):,} pairs", "", "", f"{near.sum():,}", f"{found.sum():,}"])
        else:
            bits, similarity = np.percentile(pairs.distances, 95), np.percentile(pairs.similarities, 5)
            rows.append(
                [name, f"{bits:.0f}", f"{similarity:.2f}", f"{100 * near.mean():.1f}%", f"{100 * found.mean():.1f}%"]
            )
    return markdown(rows)


if __name__ == "__main__":
    main()
