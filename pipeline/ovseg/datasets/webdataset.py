"""WebDataset shards of images and captions (the layout of img2dataset: `key.jpg`, `key.txt`, `key.json`), read in place.

Only tar headers and captions are read here. The index records where each image is in its tar, for the steps that read it.
Members of a sample may be in any order and any place of their tar. The key of a sample ends at the first dot of the name, as
webdataset has it, or at the last one if an image and a caption agree up to there (`v1.0.jpg`, `v1.0.txt`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.folders import describe_files, is_file_system_file
from ovseg.core.image_formats import describe_suffixes, image_suffixes
from ovseg.core.json_files import parse_json
from ovseg.core.remote_files import list_files, local_copy
from ovseg.core.text_files import decode_text
from ovseg.datasets.store import Record, Store, Writer, open_store
from ovseg.datasets.tar_members import COMPRESSED_SUFFIXES, Member, read_members

TEXT_SUFFIXES = ("txt", "text", "caption")
CAPTION_KEYS = ("caption", "captions", "text", "texts")  # of a JSON member, the first that is there
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".webp")  # of several images with one key, the photograph and not the mask
MAX_ID = 2**63 - 1


def list_shards(folder: Path) -> list[Path]:
    """List the tars of a folder, sorted by name; compressed ones are among them, to be counted as such.

    Raises:
        OvsegError: there are none that can be read.
    """
    suffixes = (".tar", *COMPRESSED_SUFFIXES)
    files = [path for path in list_files(folder) if not is_file_system_file(path.name)]
    shards = [path for path in files if path.name.lower().endswith(suffixes)]
    if not any(path.name.lower().endswith(".tar") for path in shards):
        others = [path.name for path in shards or files]
        deeper = sorted(str(path.parent.relative_to(folder)) for path in folder.glob("*/*.tar"))[:1]
        hint = f"; {deeper[0]}/ inside it does" if deeper else f", but {describe_files(others)}" if others else ""
        raise OvsegError(f"{folder} holds no shard (*.tar, not compressed){hint}")
    return shards


def open_shards(folder: Path, database: Path) -> Store:
    """Open the images of all shards with their captions, as the same store that COCO files give.

    What is left out is part of the store: a tar, or the rest of a tar, and an image whose key has occurred before (the first
    image keeps the key and its captions) as records with a "problem"; single members as `Store.left_out`.

    Args:
        folder: folder of the shards.
        database: file that the records are written to; it is made if it does not exist.

    Raises:
        OvsegError: the folder holds no shard, or the shards hold no image.
    """
    paths = list_shards(folder)

    def fill(writer: Writer) -> None:
        known_ids: set[int] = set()
        problems: list[str] = []
        for shard in paths:
            with local_copy(shard, database.parent) as path:
                for item in _samples(path):
                    if isinstance(item, _Sample):
                        _add_sample(writer, path, item, known_ids)
                        continue
                    problems.append(item.detail)
                    if item.reason.startswith("member_"):
                        writer.add_left_out(item)
                    else:
                        writer.add_images([_problem(path, item)])
        if not known_ids:
            reason = f": {problems[0]}" if problems else ""
            raise OvsegError(f"{folder}: no shard holds an image ({describe_suffixes()}){reason}")

    return open_store(database, folder, fill)


def image_id(key: str) -> int:
    """The id of a sample: its key if that is a number, else 60 bits of the key's hash."""
    if key.isascii() and key.isdigit() and int(key) <= MAX_ID:
        return int(key)
    return int(hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:15], 16)


@dataclass(slots=True)
class _Stem:
    """The members of a tar whose names agree up to their last dot."""

    images: list[Member] = field(default_factory=list)
    texts: list[Member] = field(default_factory=list)
    records: list[Member] = field(default_factory=list)

    @property
    def captioned(self) -> bool:
        return bool(self.texts or self.records)


@dataclass(frozen=True)
class _Sample:
    key: str
    image: Member
    captions: tuple[str, ...]


def _add_sample(writer: Writer, path: Path, sample: _Sample, known_ids: set[int]) -> None:
    number = image_id(sample.key)
    place = {
        "file_name": path.name,
        "member": sample.image.name,
        "offset": sample.image.offset,
        "size": sample.image.size,
    }
    if number in known_ids:
        detail = f"{sample.image.name} in {path.name} repeats the key {sample.key!r} of an earlier image"
        writer.add_images([_problem(path, BadItem("duplicate_key", detail), sample.image.offset)])
        return
    known_ids.add(number)
    writer.add_images([{"id": number, **place}])
    ids = [number] if len(sample.captions) == 1 else range(len(sample.captions))
    writer.add_annotations(
        {"image_id": number, "id": i, "caption": caption} for i, caption in zip(ids, sample.captions, strict=True)
    )


def _problem(path: Path, problem: BadItem, place: int = 0) -> Record:
    """The record of a tar, or of an image in it, that cannot be used."""
    identity = f"{path.name}#{problem.reason}#{place}"
    return {"id": image_id(identity), "file_name": path.name, "problem": problem.reason, "detail": problem.detail}


def _samples(path: Path) -> Iterator[_Sample | BadItem]:
    """The samples of a shard, and what of it is left out."""
    problems: list[BadItem] = []
    stems: dict[str, _Stem] = {}
    names: set[str] = set()
    for member in read_members(path):
        problem = member if isinstance(member, BadItem) else _sort(member, path.name, stems, names)
        if problem:
            problems.append(problem)
    groups: dict[str, dict[str, _Stem]] = {}
    for stem, members in stems.items():
        folder, slash, name = stem.rpartition("/")
        groups.setdefault(f"{folder}{slash}{name.partition('.')[0]}", {})[stem] = members
    with path.open("rb") as stream:
        for key, group in groups.items():
            for part in _split(key, group, path):
                if isinstance(part, BadItem):
                    problems.append(part)
                else:
                    captions = tuple(dict.fromkeys(_captions(stream, path, part, problems)))
                    yield _Sample(part.key, part.image, captions)
    yield from problems


@cache
def _kind_of_suffix() -> dict[str, str]:
    """The field of `_Stem` for each suffix without dot."""
    kinds = {suffix[1:]: "images" for suffix in image_suffixes()}
    return kinds | dict.fromkeys(TEXT_SUFFIXES, "texts") | {"json": "records"}


def _sort(member: Member, tar: str, stems: dict[str, _Stem], names: set[str]) -> BadItem | None:
    """Put a member to the others of its stem, unless it is left out for the returned reason."""
    name = member.name
    stem, dot, suffix = name.rpartition(".")
    kind = _kind_of_suffix().get(suffix) or _kind_of_suffix().get(suffix.lower())
    if not dot or not stem or stem[-1] == "/" or "/" in suffix:
        return BadItem("member_not_read", f"{tar}: {name} has no key or no suffix")
    if kind is None:
        return BadItem(
            "member_not_read", f"{tar}: {name} has the suffix {suffix}, which is neither an image nor a caption"
        )
    if name in names and kind != "images":
        return BadItem("member_repeated", f"{tar}: {name} occurs once more; the first one counts")
    names.add(name)
    if stem not in stems:
        stems[stem] = _Stem()
    getattr(stems[stem], kind).append(member)
    return None


class _Parts(NamedTuple):
    """The members of one sample; of its JSON files only those are read that no text replaces."""

    key: str
    image: Member
    texts: Sequence[Member] = ()
    records: Sequence[Member] = ()


def _split(key: str, group: Mapping[str, _Stem], path: Path) -> Iterator[_Parts | BadItem]:
    """Split the members whose names agree up to their first dot into samples, and into what is left out."""
    if len(group) == 1 and key in group and len(group[key].images) == 1:  # most samples
        yield _Parts(key, group[key].images[0], group[key].texts, group[key].records)
        return
    alone = [members for members in group.values() if not members.images]
    texts, records = [m for stem in alone for m in stem.texts], [m for stem in alone for m in stem.records]
    own = _stems_of_samples(key, group)
    keeper = key if key in own else next(iter(own)) if len(own) == 1 else None  # of the captions with other stems
    for name, members in own.items():
        first, *more = sorted(members.images, key=lambda image: not image.name.lower().endswith(PHOTO_SUFFIXES))
        further = (texts, records) if name == keeper else ((), ())
        yield _Parts(name, first, [*members.texts, *further[0]], [*members.records, *further[1]])
        for image in more:
            yield (  # which repeats the key
                _Parts(name, image)
                if image.name == first.name
                else BadItem("member_extra_image", f"{path.name}: {image.name} is left out, {first.name} is the image")
            )
    used = {image for members in own.values() for image in members.images}
    for image in (image for members in group.values() for image in members.images if image not in used):
        yield (
            BadItem("member_extra_image", f"{path.name}: {image.name} has no caption, as images beside it have")
            if own
            else BadItem(
                "member_ambiguous", f"{path.name}: {image.name} is one of several images for the captions of {key}"
            )
        )
    if keeper is None:
        for text in (*texts, *records):
            yield BadItem("member_caption_alone", f"{path.name}: {text.name} belongs to no image, or to several")


def _stems_of_samples(key: str, group: Mapping[str, _Stem]) -> dict[str, _Stem]:
    """The members of each sample of a group by its key.

    An image makes a sample if its name has no other dot than that of its suffix, or if a caption has the same name. Without
    such images, the only image makes a sample with all captions (000.image.jpg, 000.caption.txt), and without captions, every
    image does.
    """
    pictured = {name: members for name, members in group.items() if members.images}
    own = {name: members for name, members in pictured.items() if name == key or members.captioned}
    if own or not pictured:
        return own
    if len(pictured) == 1:
        return {key: next(iter(pictured.values()))}
    return {} if any(members.captioned for members in group.values()) else pictured


def _captions(stream: BinaryIO, path: Path, parts: _Parts, problems: list[BadItem]) -> Iterator[str]:
    """The captions of a sample: each line of its texts; if there are none, those of its JSON files."""
    any_text = False
    for member in (*parts.texts, *parts.records):
        is_record = member.name.lower().endswith(".json")
        if is_record and any_text:
            return
        stream.seek(member.offset)
        data = stream.read(member.size)
        if len(data) < member.size:
            problems.append(BadItem("member_truncated", f"{path.name}: {member.name} is cut off with the tar"))
            continue
        try:
            captions = (
                _json_captions(parse_json(data, member.name)) if is_record else _lines(decode_text(data, member.name))
            )
        except OvsegError as error:
            reason = "member_json_malformed" if is_record else "member_not_text"
            problems.append(BadItem(reason, f"{path.name}: {error}"))
            continue
        any_text = any_text or bool(captions)
        yield from captions


def _lines(text: str) -> list[str]:
    """The captions of a text member: one per line. Form feeds and Unicode's line separators (U+2028) are blanks in a line."""
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def _json_captions(value: Any) -> list[str]:
    """The captions of a JSON member: a text, a list of them, or an object that has them under one of `CAPTION_KEYS`."""
    if isinstance(value, dict):
        return _json_captions(next((value[key] for key in CAPTION_KEYS if value.get(key)), None))
    if isinstance(value, list):
        return [caption for item in value for caption in _json_captions(item)]
    text = value.encode("utf-8", "replace").decode().strip() if isinstance(value, str) else ""  # half an emoji
    return [text] if text else []
