"""The Arrow schema of every table, and functions to read and write tables.

A table is a folder of Parquet parts, one for each unit of work, in order. The metadata of each part has the name and version of
its schema and the fingerprint of the step that wrote it. Image ids are int64; RLE is COCO's compressed counts as bytes; boxes
are x, y, width, height in pixels; similarity is a cosine in [-1, 1]. A step may write further tables beside its own, each in a
folder of its name: `failures`, and `regions` of `score`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ovseg.core import hashing
from ovseg.core.errors import OvsegError
from ovseg.core.paths import is_remote
from ovseg.core.remote_files import is_file, read_file
from ovseg.core.retries import stays

SCHEMA_VERSION = "3"
MODEL = "ovseg.model"  # key of a table's metadata: fingerprint of the CLIP that has scored it
ANNOTATED = "annotated"  # in the table `proposals`: the source of masks that are annotated, and no proposals
SCORE = "ovseg.score"  # key of a table's metadata: the options that it was scored with, as JSON
BACKGROUND = "ovseg.background"  # key of the metadata of `samples`: what the background of the crops was filled with
VECTOR = "vector"
LICENCE = "ovseg.licence"  # key of a table's metadata: license of its masks, if the model that made them states one
NEAR = "near."  # before the folder of a benchmark: count of the mined images that are nearly one of its images
STEP_MANIFEST = "step.json"  # manifest of every published folder: fingerprint, counts, sha256 of each file

_caption = pa.struct([("id", pa.int64()), ("text", pa.string())])
_box = pa.list_(pa.int32(), 4)

INDEX = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file", pa.string()),  # path below the image folder; of the tar file if the image is in a shard
        ("member", pa.string()),  # name of the image in that tar file; null for a file of its own
        ("offset", pa.int64()),  # position of its first byte in that file
        ("size", pa.int64()),  # number of bytes
        ("sha256", pa.string()),
        ("width", pa.int32()),  # as the image is used, see `orientation`
        ("height", pa.int32()),
        ("exif_orientation", pa.int8()),  # what its metadata state, 1 to 8; 1 turns nothing
        ("orientation", pa.string()),  # "exif": it is turned as they say; "raw": it is used as it is stored
        ("captions", pa.list_(_caption)),  # sorted by id
        ("problem", pa.string()),  # rejection reason; null for an image that can be used
        ("detail", pa.string()),  # the reason in a sentence; of an image that is used, what was odd about its metadata
    ]
)
NOUNS = pa.schema(
    [
        ("image_id", pa.int64()),
        ("noun", pa.string()),  # lemma in lower case; a compound has several words
        ("caption_id", pa.int64()),
        ("start", pa.int32()),  # character span in that caption
        ("end", pa.int32()),
    ]
)
PROPOSALS = pa.schema(
    [
        ("image_id", pa.int64()),
        ("proposal", pa.int32()),  # number of the mask within the image
        ("rle", pa.binary()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("box", _box),
        ("area", pa.int64()),
        ("score", pa.float32()),  # confidence of the source in [0, 1]; 1 for annotated masks
        ("source", pa.string()),
        ("label", pa.string()),  # class name of an annotated mask; null for a class-agnostic proposal
    ]
)
CANDIDATES = pa.schema(
    [
        *NOUNS,
        ("rank", pa.int32()),  # 0 is the proposal that is most similar to the noun
        ("proposal", pa.int32()),
        ("similarity", pa.float32()),
        ("margin", pa.float32()),  # similarity minus that of the next rank; null for the last one
        ("p_proposal", pa.float32()),  # softmax over the image's proposals
        ("p_noun", pa.float32()),  # softmax over the image's nouns
        ("area", pa.int64()),
        ("source", pa.string()),
    ]
)
REGIONS = pa.schema(
    [
        ("image_id", pa.int64()),
        ("proposal", pa.int32()),
        (VECTOR, pa.list_(pa.float16())),  # unit vector; all lists of a file have the size of the joint embedding
    ]
)
PAIRS = pa.schema(
    [
        ("pair", pa.int64()),  # number of the pair in the whole set, in the order of the shards
        ("part", pa.int32()),  # number of the part of index and proposals that has its image
        *(field for field in CANDIDATES if field.name != "rank"),  # caption and scores are null for an annotated pair
    ]
)
SAMPLES = pa.schema(
    [
        ("key", pa.string()),
        *PAIRS,
        ("status", pa.string()),  # "ok", or the reason why the sample is not in the tar
        ("detail", pa.string()),
    ]
)
SEGMENTATIONS = pa.schema(
    [
        ("item", pa.int64()),  # number of the image in the benchmark, from 0
        ("model", pa.string()),  # the CLIP; empty for a classifier that needs none
        ("threshold", pa.float64()),  # mask threshold; null for a classifier that needs none
        ("classifier", pa.string()),  # clip, proposals, ensemble, oracle_masks, oracle_labels
        ("confusion_index", pa.list_(pa.int64())),  # ground-truth class x (K + 1) + predicted class, those that occur
        ("pixels", pa.list_(pa.int64())),  # number of pixels of each confusion_index
        ("gt_classes", pa.list_(pa.int32())),  # oracle_masks: the class of each ground-truth mask; null otherwise
        ("pred_classes", pa.list_(pa.int32())),  # oracle_masks: the class that CLIP predicts for each; null otherwise
    ]
)
REGION_EMBEDDINGS = pa.schema(
    [
        ("item", pa.int64()),  # number of the image in the benchmark, from 0; of equal ones in a part, the first
        ("model", pa.string()),  # the CLIP
        ("image", pa.string()),  # sha256 of the pixels
        (
            "region",
            pa.binary(),
        ),  # sha256 of the mask; for a CLIP that sees whole images, of it and all masks of its pass
        ("mask", pa.binary()),  # RLE; of a cell of the image, for pseudo-texts, its name
        (VECTOR, pa.list_(pa.float16())),  # unit vector
    ]
)
NEAR_DUPLICATES = pa.schema(
    [
        ("image_id", pa.int64()),  # the mined image
        ("file", pa.string()),  # its name
        ("benchmark", pa.string()),  # its folder
        ("benchmark_file", pa.string()),  # image of the benchmark that it is nearly the same as
        ("mirrored", pa.bool_()),  # whether one is nearly the mirror image of the other
        ("distance", pa.int32()),  # number of bits in which their perceptual hashes differ
        ("similarity", pa.float32()),
    ]
)
FAILURES = pa.schema(
    [("image_id", pa.int64()), ("item", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
)

SCHEMAS = {
    "index": INDEX,
    "nouns": NOUNS,
    "proposals": PROPOSALS,
    "candidates": CANDIDATES,
    "regions": REGIONS,
    "pairs": PAIRS,
    "samples": SAMPLES,
    "region_embeddings": REGION_EMBEDDINGS,
    "segmentations": SEGMENTATIONS,
    "near_duplicates": NEAR_DUPLICATES,
    "failures": FAILURES,
}


def write_part(
    path: Path,
    name: str,
    rows: list[dict[str, Any]] | pa.Table,
    fingerprint: str,
    made_with: Mapping[str, str] | None = None,
    width: int | None = None,
) -> None:
    """Write one part of a table; equal rows give equal bytes.

    Args:
        path: Parquet file to write.
        name: key of `SCHEMAS`.
        rows: rows of the part.
        fingerprint: fingerprint of the step.
        made_with: further metadata: the models that made the rows, as JSON of `weights.Weights`, with the keys "ovseg.clip"
            (of several CLIPs "ovseg.clip.NAME") and "ovseg.network"; and what a table has of its own.
        width: number of components of the vectors of the tables `regions` and `region_embeddings`.
    """
    metadata = {"ovseg.table": name, "ovseg.schema": SCHEMA_VERSION, "ovseg.fingerprint": fingerprint}
    schema = SCHEMAS[name] if width is None else _with_width(SCHEMAS[name], width)
    table = rows.cast(schema) if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema)
    pq.write_table(table.replace_schema_metadata({**metadata, **(made_with or {})}), path, compression="zstd")


def _with_width(schema: pa.Schema, width: int) -> pa.Schema:
    column = schema.get_field_index(VECTOR)
    return schema.set(column, pa.field(VECTOR, pa.list_(schema.field(column).type.value_type, width)))


def parts(folder: Path) -> list[Path]:
    """List the parts of a table in the order of their numbers, which have more than five digits in very large tables.

    Raises:
        OvsegError: the folder has none, or is in object storage and not finished.
    """
    if is_remote(folder) and not any(is_file(place / STEP_MANIFEST) for place in (folder, folder.parent)):
        raise OvsegError(f"{folder} is not finished (no {STEP_MANIFEST}); run the step that writes it first, or again")
    paths = sorted(folder.glob("*.parquet"), key=lambda path: (len(path.name), path.name))
    if not paths:
        raise OvsegError(f"{folder} contains no table (no *.parquet file); run the step that writes it first")
    return paths


def read_part(path: Path, name: str, columns: list[str] | None = None) -> pa.Table:
    """Read one part of a table.

    Args:
        path: Parquet file.
        name: key of `SCHEMAS`.
        columns: names of the columns to read; None for all.

    Raises:
        OvsegError: the file is damaged, or see `check_part`.
    """
    with _explain_damage(path):
        source = open_part(path)
        _check_schema(path, name, pq.read_schema(source))
        return pq.read_table(source, columns=columns, partitioning=None)


def open_part(path: Path) -> Path | pa.BufferReader:
    """Return what pyarrow reads a part from: its path; or all of its bytes in object storage, by one request.

    Raises:
        OSError: it cannot be read.
    """
    return pa.BufferReader(read_file(path)) if is_remote(path) else path


def check_part(path: Path, name: str) -> dict[str, str]:
    """Return the metadata of a part, after checking that it is the table called `name` in the schema of this version.

    Raises:
        OvsegError: the file is damaged, is another table, or was written by another version of ovseg.
    """
    with _explain_damage(path):
        return _check_schema(path, name, pq.read_schema(open_part(path)))


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise OvsegError(f"{path} cannot be read as Parquet: {error}") from None


def _check_schema(path: Path, name: str, schema: pa.Schema) -> dict[str, str]:
    raw = schema.metadata or {}
    metadata = {key.decode(): value.decode() for key, value in raw.items()}
    table, version = metadata.get("ovseg.table"), metadata.get("ovseg.schema", "")
    if table == name and version.isdigit() and int(version) < int(SCHEMA_VERSION):
        raise OvsegError(
            f"{path.parent} was written by an older version of ovseg (schema {version}; this version reads schema "
            f"{SCHEMA_VERSION}): delete the folder and run the step that makes it again"
        )
    if table != name or version != SCHEMA_VERSION:
        raise OvsegError(
            f"{path} is table {table!r} of schema {version!r}, but {name!r} of schema {SCHEMA_VERSION!r} was expected; "
            "run the step that writes it again with this version"
        )
    return metadata


def read(folder: Path, name: str, columns: list[str] | None = None) -> pa.Table:
    """Read a whole table into memory; prefer `read_part` for large tables such as `proposals`. See `read_part`."""
    return pa.concat_tables([read_part(path, name, columns) for path in parts(folder)])


def rows(folder: Path, name: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of a table as dicts, with one part in memory at a time. See `read_part`."""
    for path in parts(folder):
        yield from read_part(path, name, columns).to_pylist()


def fingerprint(folder: Path, name: str) -> str:
    """Return a hash of the contents of a whole table: 16 hex digits.

    A step that is done again with the same result therefore leaves everything that depends on it as it is.

    Raises:
        OvsegError: a part is damaged, or is another table or schema version.
    """
    paths, recorded = parts(folder), read_step_manifest(folder).get("files", {})
    for path in paths[:1] if is_remote(folder) else paths:  # there each is a request, and all were written at once
        check_part(path, name)
    return hashing.fingerprint(files={p.name: recorded.get(p.name) or hashing.sha256_file(p) for p in paths})


def content_hash(path: Path) -> str:
    """Return the sha256 of a file or folder, 64 hex digits; `step.json` is trusted for files that a step has published.

    Of a published folder the manifest itself does not count: it names the code that wrote it, which may differ.
    """
    if path.is_dir():
        files = read_step_manifest(path).get("files")
        return hashing.sha256_bytes(json.dumps(files, sort_keys=True).encode()) if files else hashing.sha256_path(path)
    recorded: str | None = read_step_manifest(path.parent).get("files", {}).get(path.name)
    return recorded or hashing.sha256_file(path)


def annotations_hash(path: Path) -> str:
    """As `content_hash`, for annotated masks: the PNGs beside a panoptic JSON, in the folder of its name, are part of it."""
    maps = path.with_suffix("")
    if not path.is_file() or not maps.is_dir():
        return content_hash(path)
    return hashing.fingerprint(json=content_hash(path), maps=content_hash(maps))


def licence(folder: Path, name: str) -> str | None:
    """Return the license of the masks that a table was made from; None if their model stated none."""
    return next((check_part(path, name).get(LICENCE) for path in parts(folder)), None)


def read_step_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a published folder.

    Returns:
        at least "fingerprint", "counts" and "files"; an empty dict if the folder has no manifest that can be read.

    Raises:
        OSError: object storage does not answer; that there is no manifest would mean that the folder is not finished.
    """
    path = folder / STEP_MANIFEST
    try:
        manifest = json.loads(read_file(path))
    except (OSError, ValueError) as error:
        if is_remote(path) and isinstance(error, OSError) and not stays(error):
            raise
        return {}
    complete = isinstance(manifest, dict) and {"fingerprint", "counts", "files"} <= set(manifest)
    return dict(manifest) if complete else {}


def read_counts(folder: Path) -> dict[str, int]:
    """Return the counts of the step that wrote a folder: what it kept and dropped, by name."""
    return dict(read_step_manifest(folder).get("counts", {}))
