"""COCO's JSON files: captions, instances and panoptic of the 2014 and 2017 releases, and other files in that format.

They are streamed and never loaded whole; ids that are written as text are read as numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.image_records import ImageRecord
from ovseg.core.images import read_bytes, read_header, safe_path
from ovseg.core.json_files import first_value, iter_json, top_level_keys, whole_number
from ovseg.core.options import Orientation
from ovseg.core.remote_files import local_copy
from ovseg.core.rotation import rotation_counts
from ovseg.core.text import normalize
from ovseg.datasets.store import Record, Store, Writer, open_store

NUMBERS = {  # fields of each kind of record that are whole numbers, whatever a tool has written them as
    "images.item": ("id", "width", "height"),
    "annotations.item": ("id", "image_id", "category_id", "iscrowd"),
    "categories.item": ("id",),
    "item": ("id", "image_id", "category_id", "iscrowd", "width", "height"),
}


def open_coco(path: Path, database: Path) -> Store:
    """Open the images, annotations and categories of a COCO file.

    Args:
        path: captions, instances or panoptic JSON: an object with the lists "images" and "annotations"; or objects with
            "image_id", "file_name" and "caption" one after the other ("JSON lines").
        database: file that the records are copied to; it is made if it does not exist.

    Raises:
        OvsegError: if the file is missing, is not valid JSON, or is not in COCO's format; the message says where. Or if an id
            stands for two images or two categories.
    """
    _check_is_file(path)

    def fill(writer: Writer) -> None:
        with local_copy(path, database.parent) as file:
            _fill(file, writer)

    return open_store(database, path, fill)


def open_results(path: Path, database: Path) -> Store:
    """Open a COCO results file as annotations without images.

    Args:
        path: results JSON, a list of `{"image_id", "segmentation", "score"}`; or such objects one after the other.
        database: file that the records are copied to; it is made if it does not exist.

    Raises:
        OvsegError: if the file is missing, is not valid JSON, or is not a list of results.
    """
    _check_is_file(path)

    def fill(writer: Writer) -> None:
        with local_copy(path, database.parent) as file:
            _fill_results(file, writer)

    return open_store(database, path, fill)


def find_image(images: Path, record: Record, orientation: Orientation, counts: Counter[str]) -> ImageRecord:
    """Find the image file of a COCO record.

    Args:
        images: the folder of the images.
        record: an entry of the JSON's "images".
        orientation: whether the image is turned as its EXIF orientation says, or used as stored.
        counts: is updated with the counts of `core.rotation`.

    Raises:
        BadItem: the record states no size (`no_size`), its file is missing (`missing`) or outside of the folder
            (`unsafe_path`), or is no image that can be read.
    """
    name, width, height = (record.get(key) for key in ("file_name", "width", "height"))
    if not isinstance(width, int) or not isinstance(height, int):
        raise BadItem("no_size", f"{name} has no width and height")
    path = safe_path(images, str(name))
    if not path.is_file():
        raise BadItem("missing", f"{path} is missing")
    header = read_header(read_bytes(images, str(name)), orientation)
    counts.update(rotation_counts(header, (width, height)))
    listed = header._replace(width=width, height=height)  # the annotations are of this size, whatever the file has
    return ImageRecord.of_file(images, str(name), listed, orientation, int(record["id"]))


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        problem = "a folder" if path.is_dir() else "missing"
        raise OvsegError(f"{path} is {problem}; a JSON file in COCO's format is needed")


def _fill(path: Path, writer: Writer) -> None:
    first, follower = first_value(path)
    lines = isinstance(first, dict) and "images" not in first and follower in ("", "{")
    if lines and {"image_id", "file_name"} <= first.keys():
        images = writer.add_images(map(_image_of_line, _read_records(path, "item", ("image_id", "file_name"), lines)))
        annotations = writer.add_annotations(_read_records(path, "item", ("image_id",), lines))
    elif lines and follower == "{":
        raise OvsegError(
            f"{path} holds one object after the other (JSON lines; the first has {', '.join(first)}). Each needs image_id, "
            'file_name and caption; or write one object with the lists "images" and "annotations", as COCO does'
        )
    else:
        images = writer.add_images(_read_records(path, "images.item", ("id", "file_name")))
        annotations = writer.add_annotations(_read_records(path, "annotations.item", ("image_id",)))
        categories = _read_records(path, "categories.item", ("id", "name"))
        writer.add_categories({**record, "name": normalize(str(record["name"]))} for record in categories)
    if empty := [name for name, number in (("images", images), ("annotations", annotations)) if not number]:
        keys = ", ".join(top_level_keys(path)) or "none; results of a model, which are a list, are read as precomputed"
        raise OvsegError(f"{path} is not a COCO file: {' and '.join(empty)} missing or empty (top-level keys: {keys})")


def _fill_results(path: Path, writer: Writer) -> None:
    first, _ = first_value(path)
    lines = isinstance(first, dict) and "image_id" in first
    if not writer.add_annotations(_read_records(path, "item", ("image_id", "segmentation"), lines)):
        keys = ", ".join(top_level_keys(path))
        raise OvsegError(
            f"{path} is not a COCO results file: a list of objects with image_id and segmentation is expected, and it "
            f"holds {f'an object with the keys {keys}' if keys else 'none'}; a file with images and annotations is read as "
            "ground_truth"
        )


def _image_of_line(record: Record) -> Record:
    return {"id": record["image_id"], **{key: record[key] for key in ("file_name", "width", "height") if key in record}}


def _read_records(path: Path, prefix: str, required: tuple[str, ...], lines: bool = False) -> Iterator[Record]:
    """The objects under `prefix`, each checked for the required keys; the first of these is its id."""
    for number, record in enumerate(iter_json(path, "" if lines else prefix, lines)):
        place = f"{path}: object {number + 1}" if lines else f"{path}: {prefix}[{number}]"
        if prefix == "images.item" and isinstance(record, dict) and isinstance(record.get("coco_url"), str):
            record.setdefault("file_name", record["coco_url"].rpartition("/")[2])  # LVIS
        missing = [key for key in required if not isinstance(record, dict) or key not in record]
        if missing:
            raise OvsegError(f"{place} has no {missing[0]!r}; is this a COCO file?")
        value = record[required[0]]
        _read_numbers(record, NUMBERS[prefix])
        if type(record[required[0]]) is not int:
            raise OvsegError(f"{place} has {required[0]} {value!r}, which is not a whole number")
        if isinstance(segments := record.get("segments_info"), list):
            for segment in filter(lambda value: isinstance(value, dict), segments):
                _read_numbers(segment, ("id", "category_id"))
        yield record


def _read_numbers(record: Record, keys: tuple[str, ...]) -> None:
    """Replace the values of these keys by whole numbers, where they stand for one; others are left as they are."""
    for key in keys:
        value = record.get(key)
        if type(value) is not int and value is not None:
            number = whole_number(value)
            record[key] = value if number is None else number
