"""Files that hold the embeddings of one image's masks by one CLIP.

A file is named after the content of image and masks, in a folder that is named after the CLIP and how it sees regions, so it
can never be out of date.

Shapes: Q masks of an image, V of them with a pixel, D joint embedding.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovseg.core.images import ImageArray

log = logging.getLogger("ovseg")

FOLDER = "regions"
"""The folder of all CLIPs' folders, in the folder of unfinished work; it can be deleted at any time."""


def embedding_file(folder: Path, pixels: ImageArray, rles: Sequence[bytes | None]) -> Path:
    """Return the file of the embeddings of an image's masks.

    Args:
        folder: the folder of the CLIP.
        pixels: uint8 RGB `[H, W, 3]`.
        rles: the Q masks; None for one without a pixel.
    """
    digest = hashlib.sha256(repr((pixels.shape, list(rles))).encode())
    digest.update(pixels.tobytes())
    return folder / f"{digest.hexdigest()}.npy"


def read_embeddings(path: Path, number: int) -> Tensor | None:
    """Read stored embeddings, float32 `[V, D]`; None if there are none, or the file is damaged, which is logged.

    Args:
        path: the file.
        number: V.
    """
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


def write_embeddings(path: Path, embeddings: Tensor) -> None:
    """Write a file at once, so that other processes see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as stream:
        np.save(stream, embeddings.numpy())
    Path(stream.name).replace(path)
