"""WebDataset shards of images and captions (the layout of img2dataset: `key.jpg`, `key.txt`, `key.json`), read in place.

Only tar headers and captions are read here. The index records where each image is in its tar, for the steps that read it.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

from ovseg.core.errors import OvsegError
from ovseg.core.json_files import parse_json
from ovseg.datasets.store import Record, Store, Writer, open_store

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
MAX_ID = 2**63 - 1


def list_shards(folder: Path) -> list[Path]:
    """The tars of a folder, sorted by name.

    Raises:
        OvsegError: if there are none.
    """
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise OvsegError(f"{folder} holds no shard (*.tar)")
    return paths


def open_shards(folder: Path, database: Path) -> Store:
    """Open the images of all shards with their captions, as the same store that COCO files give.

    A tar that ends early gives the samples it holds, and one more record whose "problem" says so. An image whose key has
    occurred before gets such a record, too: the first image keeps the key and its caption.

    Args:
        folder: folder of the shards.
        database: file that the records are written to; it is made if it does not exist.

    Raises:
        OvsegError: if the folder holds no shard, or the shards hold no image.
    """
    paths = list_shards(folder)

    def fill(writer: Writer) -> None:
        num_images = 0
        known_ids: set[int] = set()
        for path in paths:
            for image, caption in _scan(path):
                repeated = image["id"] in known_ids
                known_ids.add(image["id"])
                num_images += writer.add_images([_duplicate(image) if repeated else image])
                writer.add_annotations([caption] if caption and not repeated else [])
        if not num_images:
            raise OvsegError(f"{folder}: no shard holds an image ({', '.join(sorted(IMAGE_SUFFIXES))})")

    return open_store(database, folder, fill)


def image_id(key: str) -> int:
    """The id of a sample: its key if that is a number, else 60 bits of the key's hash."""
    if key.isascii() and key.isdigit() and int(key) <= MAX_ID:
        return int(key)
    return int(hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:15], 16)


def _duplicate(record: Record) -> Record:
    place = f"{record['file_name']}#{record.get('offset')}"
    detail = f"{place} repeats the id {record['id']} of an earlier image"
    return {"id": image_id(place), "file_name": record["file_name"], "problem": "duplicate_key", "detail": detail}


def _scan(path: Path) -> Iterator[tuple[Record, Record | None]]:
    """The image record of each sample of a shard, and its caption record, if it has one."""
    images: dict[str, Record] = {}
    captions: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:  # uncompressed: members of a compressed tar have no offset to read from
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                suffix = suffix.lower()
                if suffix in IMAGE_SUFFIXES:
                    images[key] = {"file_name": path.name, "offset": member.offset_data, "size": member.size}
                elif suffix == "txt":
                    captions[key] = _read(tar, member).decode("utf-8", "replace").strip()
                elif suffix == "json" and key not in captions:
                    caption = str(_parse_json(_read(tar, member)).get("caption") or "")
                    captions[key] = caption.encode("utf-8", "replace").decode().strip()  # JSON can hold half an emoji
    except (tarfile.TarError, OSError, EOFError) as error:
        images[f"{path.name}#rest"] = {"file_name": path.name, "problem": "truncated_tar", "detail": str(error)}
    for key, record in images.items():
        number = image_id(key)
        caption_record = {"image_id": number, "id": number, "caption": captions[key]} if key in captions else None
        yield {"id": number, **record}, caption_record


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return stream.read() if stream else b""


def _parse_json(data: bytes) -> Record:
    try:
        value = parse_json(data, "a member")
    except OvsegError:
        return {}
    return value if isinstance(value, dict) else {}
