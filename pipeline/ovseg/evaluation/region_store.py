"""Embeddings of regions that were computed before.

Benchmarks share images, and a benchmark is evaluated again with other names, templates, weights or thresholds of scores; CLIP
encodes a region once for all of them. A file holds the embeddings of one image's masks by one CLIP, and is named after the
content of both, so it can never be out of date. The folder can be deleted at any time.

Shapes: Q masks of an image, V of them with a pixel, D joint embedding.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovseg.core import hashing, tables
from ovseg.core.images import ImageArray
from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.engine.fingerprint import step_key

log = logging.getLogger("ovseg")

FOLDER = "regions"


def encoder_keys(clips: Mapping[str, Path], options: SegmentOptions, crop: CropOptions, device: str) -> dict[str, str]:
    """Return what the embeddings of each CLIP depend on besides the image and its masks, as hashes.

    Args:
        clips: the folders of the CLIPs by name.
        options, crop: the view of a region, the precision, and the crop recipe.
        device: the torch device; another kind of device rounds otherwise.
    """
    keys = {}
    for name, path in clips.items():
        key = step_key(
            "regions",
            "ovseg.segmentation.segmenter",
            clip=tables.content_hash(path),
            view=options.view,
            precision=options.precision,
            crop=crop.model_dump(mode="json"),
            device=device.split(":", maxsplit=1)[0],
        )
        keys[name] = hashing.fingerprint(key=key.fingerprint, code=key.code_hash)
    return keys


@dataclass(frozen=True)
class RegionStore:
    """A folder of region embeddings.

    Attributes:
        folder: the folder; it is created when something is stored.
        keys: what the embeddings of each CLIP depend on, by the name of the CLIP, see `encoder_keys`.
    """

    folder: Path
    keys: Mapping[str, str]

    def embeddings(
        self, model: str, pixels: ImageArray, rles: Sequence[bytes | None], embed: Callable[[], Tensor]
    ) -> Tensor:
        """Return the embeddings of an image's masks, which are computed only if they are not stored.

        Args:
            model: the name of the CLIP.
            pixels: uint8 RGB `[H, W, 3]`.
            rles: the Q masks; None for one without a pixel.
            embed: computes the embeddings, float32 `[V, D]`.
        """
        path = self.folder / self.keys[model] / f"{_content_hash(pixels, rles)}.npy"
        stored = _read(path, sum(rle is not None for rle in rles))
        if stored is not None:
            return stored
        embeddings = embed()
        _write(path, embeddings)
        return embeddings


def _content_hash(pixels: ImageArray, rles: Sequence[bytes | None]) -> str:
    digest = hashlib.sha256(repr((pixels.shape, list(rles))).encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def _read(path: Path, number: int) -> Tensor | None:
    """The stored embeddings; None if there are none, or the file is damaged."""
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s cannot be read (%s); its regions are encoded again", path, error)
        return None
    if values.ndim != 2 or len(values) != number or values.dtype != np.float32:
        log.warning("%s does not hold the embeddings of %d regions; they are encoded again", path, number)
        return None
    return torch.from_numpy(values)


def _write(path: Path, embeddings: Tensor) -> None:
    """Write a file at once, so that other processes see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as stream:
        np.save(stream, embeddings.numpy())
    Path(stream.name).replace(path)
