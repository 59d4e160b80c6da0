"""Files that hold the embeddings of an image's masks by one CLIP.

A file is named after the content of the image, in a folder that is named after the CLIP and how it sees regions, and each
embedding in it after its mask, so it can never be out of date.

    regions   uint8 [N, 32], the names of all masks of the image that were encoded, and of its cells for pseudo-texts
    vectors   float32 [N, D], their embeddings

Shapes: Q masks of an image, V of them with a pixel, D joint embedding.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovseg.core.images import ImageArray
from ovseg.core.tensor_files import keep_tensors, read_kept_tensors

log = logging.getLogger("ovseg")

FOLDER = "regions"
"""The folder of all CLIPs' folders, in the folder of unfinished work; it can be deleted at any time."""


@dataclass(frozen=True)
class EmbeddingFile:
    """Where the embeddings of some masks of an image are kept.

    Attributes:
        path: the file of the image.
        regions: the names of V masks in it.
    """

    path: Path
    regions: tuple[bytes, ...]


def image_hash(pixels: ImageArray) -> str:
    """Return the sha256 of an image, uint8 RGB `[H, W, 3]`: 64 hex digits."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def embedding_file(folder: Path, image: str, rles: Sequence[bytes | None], alone: bool = True) -> EmbeddingFile:
    """Return where the embeddings of an image's masks are kept.

    Args:
        folder: the folder of the CLIP.
        image: the `image_hash`.
        rles: the Q masks; None for one without a pixel.
        alone: whether each mask is encoded by itself. Otherwise, in one pass over the image, the last bits of an embedding
            depend on the other masks, so that they are part of its name.
    """
    others = b"" if alone else hashlib.sha256(repr(list(rles)).encode()).digest()
    names = (hashlib.sha256(others + rle).digest() for rle in rles if rle is not None)
    return EmbeddingFile(folder / f"{image}.safetensors", tuple(names))


def read_embeddings(file: EmbeddingFile) -> list[Tensor | None]:
    """Read stored embeddings: for each of V masks its vector, float32 `[D]`, or None if it is not stored.

    A file that is damaged holds nothing, which is logged.
    """
    stored = _read(file.path)
    return [stored.get(name) for name in file.regions]


def write_embeddings(file: EmbeddingFile, embeddings: Tensor) -> None:
    """Add embeddings of V masks, float32 `[V, D]`, to a file at once, so that other processes see all of them or none.

    Of two processes that add to one file at the same time, one may lose its embeddings, which then are computed again.
    """
    stored = _read(file.path) | dict(zip(file.regions, embeddings, strict=True))
    if stored:
        names = torch.from_numpy(np.frombuffer(b"".join(stored), np.uint8).reshape(len(stored), -1).copy())
        keep_tensors({"regions": names, "vectors": torch.stack(list(stored.values()))}, file.path)


def _read(path: Path) -> dict[bytes, Tensor]:
    """All embeddings of a file by the names of their masks."""
    stored = read_regions_and_vectors(path)
    return {bytes(name): vector for name, vector in zip(stored[0].numpy(), stored[1], strict=True)} if stored else {}


def read_regions_and_vectors(path: Path) -> tuple[Tensor, Tensor] | None:
    """Read the tensors "regions" `[N, ...]` and "vectors", float32 `[N, D]`, of a file that keeps embeddings.

    None if there is no such file; or if it is damaged or holds something else, which is logged.
    """
    tensors = read_kept_tensors(path)
    if not tensors:
        return None
    regions, vectors = tensors.get("regions"), tensors.get("vectors")
    if regions is None or vectors is None or len(regions) != len(vectors) or vectors.dtype != torch.float32:
        log.warning("%s does not hold embeddings; its regions are encoded again", path)
        return None
    return regions, vectors
