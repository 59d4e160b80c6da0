"""The official data sets, small: packed as they are published, listed in a table like the real one, and on a server."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from time import sleep
from typing import Any
from urllib.parse import urlsplit

from ovseg.datasets.fetch.releases import TABLE, File, Part, releases
from tests.datasets.fetch.layouts import DRAW, Truth
from tests.server import Handler, Served

# what a server holds -------------------------------------------------------------------------------------------------

PACKED: dict[str, dict[str, str]] = {
    "train2017.zip": {"train2017": "train2017"},
    "val2017.zip": {"val2017": "val2017"},
    "annotations_trainval2017.zip": {
        f"annotations/{kind}_{split}2017.json": f"annotations/{kind}_{split}2017.json"
        for kind in ("captions", "instances")
        for split in ("train", "val")
    },
    "panoptic_annotations_trainval2017.zip": {
        f"annotations/panoptic_{split}2017{end}": f"annotations/panoptic_{split}2017{end}"
        for split in ("train", "val")
        for end in (".json", ".zip")
    },
    "stuffthingmaps_trainval2017.zip": {f"stuffthingmaps/{split}2017": f"{split}2017" for split in ("train", "val")},
    "ADEChallengeData2016.zip": {"ADEChallengeData2016": "ADEChallengeData2016"},
    "ADE20K_2021_17_01.zip": {"ADE20K_2021_17_01": "ADE20K_2021_17_01"},
    "VOCtrainval_11-May-2012.tar": {
        f"VOCdevkit/VOC2012/{name}": f"VOCdevkit/VOC2012/{name}"
        for name in ("JPEGImages", "SegmentationClass", "ImageSets")
    },
    "SegmentationClassAug.zip": {"VOCdevkit/VOC2012/SegmentationClassAug": "SegmentationClassAug"},
    "VOCtrainval_03-May-2010.tar": {"VOCdevkit/VOC2010/JPEGImages": "VOCdevkit/VOC2010/JPEGImages"},
    "trainval.tar.gz": {"VOCdevkit/VOC2010/trainval": "trainval"},
}
"""Archive -> what of an unpacked release is in it, and where. Other files are given out as they are."""
FORMATS = {".zip": "zip", ".tar": "tar", ".gz": "gztar"}
LITTERED = ("SegmentationClassAug.zip", "panoptic_train2017.zip", "panoptic_val2017.zip")  # by a Mac


def packed(home: Path, part: Part, file: File) -> bytes:
    """A published file of a part that lies unpacked in `home`."""
    if file.plain:
        return (home / part.into / file.name).read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        content = Path(scratch, "content")
        for source, inside in PACKED[file.name].items():
            target = content / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.endswith(".zip"):
                below = (home / source).with_suffix("")
                shutil.copytree(below, Path(scratch, below.name, below.name))
                target.write_bytes(_pack(target.name, Path(scratch, below.name)))
            elif (home / source).is_dir():
                shutil.copytree(home / source, target)
            else:
                shutil.copyfile(home / source, target)
        return _pack(file.name, content)


def _pack(name: str, content: Path) -> bytes:
    """The archive `name` of all that is in a folder, with entries for folders."""
    if name in LITTERED:
        for path in list(content.rglob("*.png"))[:3]:
            litter = content / "__MACOSX" / path.relative_to(content).with_name(f"._{path.name}")
            litter.parent.mkdir(parents=True, exist_ok=True)
            litter.write_bytes(b"\0\5\x16\7")
    tops = [path.name for path in content.iterdir()]
    with tempfile.TemporaryDirectory() as scratch:
        kind = FORMATS[Path(name).suffix]
        made = shutil.make_archive(f"{scratch}/made", kind, content, tops[0] if len(tops) == 1 else ".")
        return Path(made).read_bytes()


@dataclass(frozen=True)
class Published:
    """Small releases of all data sets.

    Attributes:
        homes: data set -> folder of how it unpacks.
        truth: of its benchmarks.
        archives: published file -> content.
    """

    homes: Mapping[str, Path]
    truth: Truth
    archives: Mapping[str, bytes]

    def serve(self, served: Served, path: Path) -> Path:
        """Have a server give the archives at the paths of their real addresses; write the table of them to `path`.

        Of the real table only hosts, numbers of files, sizes and digests are changed.
        """
        about: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
        for dataset, name, part in ((d, n, about[d]["parts"][n]) for d in self.homes for n in about[d]["parts"]):
            for file, known in zip(part["files"], releases()[dataset][name].files, strict=True):
                data, url = self.archives[known.name], urlsplit(file["url"])
                served.files[url.path] = data
                file["url"] = served.url + url.path + (f"?{url.query}" if url.query else "")
                file |= {one: len(data) for one in ("bytes", "about") if one in file}
                if "digest" in file:
                    kind = file["digest"].split(":")[0]
                    file["digest"] = f"{kind}:{hashlib.new(kind, data, usedforsecurity=False).hexdigest()}"
            there = list(held(part["holds"], self.homes[dataset]))
            part["unpacked"] = sum(path.stat().st_size for path in there) + 1_000_000  # what else is in its archives
            for folder, holding in part["holds"].items():
                if "files" in holding:
                    holding["files"] = len(list(held({folder: holding}, self.homes[dataset])))
        path.write_text(json.dumps(about, indent=1), encoding="utf-8")
        releases.cache_clear()
        return path


def held(holds: Mapping[str, Mapping[str, Any]], home: Path) -> Iterator[Path]:
    """The files that a part must have."""
    for path, holding in holds.items():
        if "names" not in holding:
            yield home / path
        else:
            yield from (one for one in (home / path).rglob("*") if re.fullmatch(holding["names"], one.name))


def publish(folder: Path, *datasets: str, real: bool = True) -> Published:
    """Draw data sets below a folder, all of them by default, and pack them; `real` adds real samples where they are at hand."""
    homes = {name: folder / name for name in datasets or DRAW}
    truth: Truth = {}
    for name, home in homes.items():
        truth |= DRAW[name](home, real)
    archives = {
        file.name: packed(home, part, file)
        for name, home in homes.items()
        for part in releases()[name].values()
        for file in part.files
    }
    return Published(homes, truth, archives)


# a server of one's own -----------------------------------------------------------------------------------------------


class Slow(Handler):
    """Sends 16 KB at a time."""

    def setup(self) -> None:
        super().setup()
        self.wfile = _Drips(self.wfile)  # type: ignore[assignment]


class _Drips:
    def __init__(self, stream: BufferedIOBase) -> None:
        self.stream = stream

    def write(self, data: bytes) -> int:
        for begin in range(0, len(data), 1 << 14):
            self.stream.write(data[begin : begin + (1 << 14)])
            sleep(0.004)
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
