"""Shards of image + caption (img2dataset's layout: `key.jpg`, `key.txt`, `key.json`), read in place.

Only headers and captions are read here. The index then holds where each image lies in its tar, so that later steps
read it by offset.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

from ovseg.core.errors import OvsegError
from ovseg.datasets.store import Record, Store, Writer, build

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
MAX_ID = 2**63 - 1


def shards(folder: Path) -> list[Path]:
    """The tars of a folder in order.

    Raises:
        OvsegError: if there is none.
    """
    found = sorted(folder.glob("*.tar"))
    if not found:
        raise OvsegError(f"{folder} holds no shard (*.tar)")
    return found


def open_shards(folder: Path, database: Path) -> Store:
    """The images of all shards with their captions, as the store that COCO files give.

    A tar that ends early gives what it holds; the rest is listed as one record whose "problem" says so. So is an image
    whose key, and with it its number, stood before: the first one keeps it, with its own caption.

    Raises:
        OvsegError: if the folder holds no shard, or no shard an image with a caption.
    """
    paths = shards(folder)

    def fill(writer: Writer) -> None:
        found = 0
        seen: set[int] = set()
        for path in paths:
            images, captions = _scan(path)
            again = {record["id"] for record in images if record["id"] in seen}
            seen.update(record["id"] for record in images)
            found += writer.add_images(_renamed(record) if record["id"] in again else record for record in images)
            writer.add_annotations(caption for caption in captions if caption["image_id"] not in again)
        if not found:
            raise OvsegError(f"{folder}: no shard holds an image ({', '.join(sorted(IMAGE_SUFFIXES))})")

    return build(database, fill)


def image_id(key: str) -> int:
    """The number of a sample: its key if that is digits, else 60 bits of the key's hash."""
    if key.isascii() and key.isdigit() and int(key) <= MAX_ID:
        return int(key)
    return int(hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:15], 16)


def _renamed(record: Record) -> Record:
    place = f"{record['file_name']}#{record.get('offset')}"
    detail = f"{place} repeats the number {record['id']} of an earlier image"
    return {"id": image_id(place), "file_name": record["file_name"], "problem": "duplicate_key", "detail": detail}


def _scan(path: Path) -> tuple[list[Record], list[Record]]:
    images: dict[str, Record] = {}
    captions: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:  # a compressed one has no offsets to read at
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
                    said = str(_json(_read(tar, member)).get("caption") or "")
                    captions[key] = said.encode("utf-8", "replace").decode().strip()  # JSON can hold half an emoji
    except (tarfile.TarError, OSError, EOFError) as error:
        images[f"{path.name}#rest"] = {"file_name": path.name, "problem": "truncated_tar", "detail": str(error)}
    records = [{"id": image_id(key), **record} for key, record in images.items()]
    texts = [
        {"image_id": image_id(key), "id": image_id(key), "caption": captions[key]} for key in images if key in captions
    ]
    return records, texts


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return stream.read() if stream else b""


def _json(data: bytes) -> Record:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
