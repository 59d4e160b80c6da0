"""The table `region_embeddings` of the step `embed`: CLIP's embeddings of the masks of a benchmark's images.

A row is a mask of an image by one of the CLIPs. A part has the name of its unit of images, and `evaluate`, whose units have the
same images, reads one part at a time. Vectors are float16: 1 kB for a region of ViT-B/16.

Shapes: R regions, D width of the joint embedding, which all CLIPs share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import CropOptions, SegmentOptions

TABLE = "region_embeddings"
ENCODERS = "ovseg.encoders"  # key of the table's metadata: `encoder_settings` of each CLIP as JSON
REMEDY = "run the stage that writes it: `embed_heldout` for the held-out split, `embed` for a benchmark"
NAMES = ("model", "image", "region")  # the columns that name an embedding
Vectors = NDArray[np.float16]


class Rows(NamedTuple):
    """Rows of a part.

    Attributes:
        items: numbers of the images in the benchmark, `[R]`.
        models: names of the CLIPs, `[R]`.
        images: the `image_hash` of each image, `[R]`.
        regions: the name of each mask in its image, see `clip.embedding_files`, `[R]`.
        masks: each mask as RLE, `[R]`; for a CLIP with pseudo-texts also the names of the cells of the image.
        vectors: unit vectors, float16 `[R, D]`.
    """

    items: Sequence[int]
    models: Sequence[str]
    images: Sequence[str]
    regions: Sequence[bytes]
    masks: Sequence[bytes]
    vectors: Vectors


class Named(NamedTuple):
    """Embeddings and their names: `models`, `images`, `regions` and `vectors` of `Rows`."""

    models: Sequence[str]
    images: Sequence[str]
    regions: Sequence[bytes]
    vectors: Vectors


def encoder_settings(
    clips: Mapping[str, Path], options: SegmentOptions, crop: CropOptions
) -> dict[str, dict[str, Any]]:
    """Return what the embedding of a mask depends on, by the name of each CLIP.

    Args:
        clips: the folders of the CLIPs by name.
        options, crop: the view of a region, the precision, and the crop recipe.
    """
    shown = {"view": options.view, "precision": options.precision, "crop": crop.model_dump(mode="json")}
    return {name: {"clip": tables.content_hash(path), **shown} for name, path in clips.items()}


def write(
    folder: Path,
    unit: str,
    rows: Rows,
    fingerprint: str,
    encoders: Mapping[str, Mapping[str, Any]],
    made_with: Mapping[str, str],
) -> None:
    """Write a part.

    Args:
        folder: the folder of the unit's files.
        unit: the name of the unit.
        rows: its rows, in the order of the images.
        fingerprint: the fingerprint of the step.
        encoders: the `encoder_settings`.
        made_with: further metadata, see `tables.write_part`.
    """
    width = rows.vectors.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.vectors.reshape(-1)), width)
    columns = [pa.array(column, field.type) for column, field in zip(rows[:-1], tables.REGION_EMBEDDINGS, strict=False)]
    table = pa.table([*columns, vectors], tables.REGION_EMBEDDINGS.names)
    metadata = {**made_with, ENCODERS: json.dumps(encoders, sort_keys=True)}
    tables.write_part(folder / f"{unit}.parquet", TABLE, table, fingerprint, metadata, width)


def read(folder: Path, unit: str, models: Sequence[str]) -> Named:
    """Read the embeddings of some CLIPs in a part. One that does not exist has none: `embed` has been given fewer images.

    Args:
        folder: the folder of the table.
        unit: the name of the unit.
        models: the names of the CLIPs.

    Raises:
        OvsegError: the file is damaged or another table.
    """
    path = folder / f"{unit}.parquet"
    if not path.is_file():
        return Named([], [], [], np.zeros((0, 0), np.float16))
    table = tables.read_part(path, TABLE, [*NAMES, tables.VECTOR])
    table = table.filter(pc.is_in(table["model"], pa.array(models, pa.string())))
    width = table.schema.field(tables.VECTOR).type.list_size
    vectors = table[tables.VECTOR].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    models_of_rows, images, regions = (table[name].to_pylist() for name in NAMES)
    return Named(models_of_rows, images, regions, vectors.reshape(-1, width))


def check(folder: Path, clips: Mapping[str, Path], options: SegmentOptions, crop: CropOptions) -> None:
    """Check that a table holds embeddings of these CLIPs; see `encoder_settings` for the arguments.

    Raises:
        OvsegError: there is no table, it lacks a CLIP, or another CLIP or other settings made it.
    """
    if not folder.is_dir():
        raise OvsegError(f"there are no embeddings in {folder}; {REMEDY}")
    made_with = json.loads(tables.check_part(tables.parts(folder)[0], TABLE).get(ENCODERS, "{}"))
    for name, wanted in encoder_settings(clips, options, crop).items():
        found = made_with.get(name)
        if found is None:
            raise OvsegError(
                f"{folder} has no embeddings of the model {name!r}, only of {', '.join(made_with)}; {REMEDY}"
            )
        if found != wanted:
            differing = ", ".join(
                f"{key}={_text(found.get(key))} instead of {_text(value)}"
                for key, value in wanted.items()
                if found.get(key) != value
            )
            raise OvsegError(f"{folder} has embeddings of the model {name!r} with {differing}; {REMEDY}")


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
