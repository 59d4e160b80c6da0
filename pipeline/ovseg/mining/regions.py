"""The table `regions`: the embeddings of the proposals that are a candidate of any noun, beside the table `candidates`.

They are float16, 2 bytes for each component: 1 kB for a region of ViT-B/16.

Shapes: Q proposals of an image, R regions, D width of CLIP's joint embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import ScoreOptions

FOLDER = "regions"  # below that of the table `candidates`

Vectors = NDArray[np.float16]


class Regions(NamedTuple):
    """Regions of one part.

    Attributes:
        image_ids: int64 `[R]`.
        proposals: numbers of the masks within their images, int32 `[R]`.
        vectors: unit vectors, float16 `[R, D]`.
    """

    image_ids: NDArray[np.int64]
    proposals: NDArray[np.int32]
    vectors: Vectors

    def rows_of(self, keys: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
        """Return the row of each region, named by image id and proposal, int64.

        Raises:
            KeyError: there is no such region.
        """
        row = {key: i for i, key in enumerate(zip(self.image_ids.tolist(), self.proposals.tolist(), strict=True))}
        return np.array([row[key] for key in keys], dtype=np.int64)


class RegionCollector:
    """Collects the embeddings of a unit's regions.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        self._keys: list[tuple[int, int]] = []
        self._vectors = [np.zeros((0, width), np.float16)]

    def add(self, keys: Sequence[tuple[int, int]], vectors: NDArray[np.float32]) -> None:
        """Add regions, named by image id and proposal, with their unit vectors, float32 `[k, D]`."""
        self._keys += keys
        self._vectors.append(vectors.astype(np.float16))

    def regions(self) -> Regions:
        """Return all regions, in the order in which they were added."""
        ids, proposals = zip(*self._keys, strict=True) if self._keys else ((), ())
        return Regions(np.array(ids, np.int64), np.array(proposals, np.int32), np.concatenate(self._vectors))


def write_regions(folder: Path, unit: str, regions: Regions, fingerprint: str, made_with: Mapping[str, str]) -> None:
    """Write the regions of a unit to `{unit}.regions.parquet`.

    Args:
        folder: the folder of the unit's files.
        unit: the name of the unit.
        regions: the regions, in the order of the images.
        fingerprint: the fingerprint of the step.
        made_with: further metadata, with the fingerprint of the CLIP as `tables.MODEL`; see `tables.write_part`.
    """
    width = regions.vectors.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(regions.vectors.reshape(-1)), width)
    table = pa.table([pa.array(regions.image_ids), pa.array(regions.proposals), vectors], tables.REGIONS.names)
    tables.write_part(folder / f"{unit}.regions.parquet", "regions", table, fingerprint, made_with, width)


def read_regions(part: Path) -> Regions:
    """Read a part of the table.

    Raises:
        OvsegError: the file is damaged or another table.
    """
    table = tables.read_part(part, "regions")
    ids, proposals = (table[name].to_numpy() for name in ("image_id", "proposal"))
    width = table.schema.field(tables.VECTOR).type.list_size
    vectors = table[tables.VECTOR].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Regions(ids, proposals, vectors.reshape(-1, width))


def region_parts(candidates: Path) -> list[Path]:
    """List the parts of the table in order.

    Args:
        candidates: the folder of the table `candidates`.

    Raises:
        OvsegError: `score` has not kept the regions.
    """
    folder = candidates / FOLDER
    if not folder.is_dir():
        raise OvsegError(
            f"{candidates} has no table of regions: set score.keep_regions=candidates (--keep-regions candidates) and run "
            "score again"
        )
    return tables.parts(folder)


def encoded_by(candidates: Path) -> tuple[str, ScoreOptions]:
    """Return the fingerprint of the CLIP that has encoded the regions, and the options that it scored with.

    See `region_parts` for the arguments and errors.
    """
    metadata = tables.check_part(region_parts(candidates)[0], "regions")
    return metadata[tables.MODEL], ScoreOptions.model_validate_json(metadata.get(tables.SCORE, "{}"))
