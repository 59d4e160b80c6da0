"""Embeddings of regions that were computed before.

Benchmarks share images, and a benchmark is evaluated again with other names, templates, weights or thresholds of scores; CLIP
encodes a region once for all of them; see `clip.embedding_files`.

Shapes: Q masks of an image, V of them with a pixel, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ovseg.clip.embedding_files import embedding_file, read_embeddings, write_embeddings
from ovseg.core import hashing, tables
from ovseg.core.images import ImageArray
from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.engine.fingerprint import step_key


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
        path = embedding_file(self.folder / self.keys[model], pixels, rles)
        stored = read_embeddings(path, sum(rle is not None for rle in rles))
        if stored is not None:
            return stored
        embeddings = embed()
        write_embeddings(path, embeddings)
        return embeddings
