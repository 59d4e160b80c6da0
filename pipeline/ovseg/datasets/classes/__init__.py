"""Class tables: which number of a label map is which class. One JSON for each benchmark, beside this file.

{"source": who says so, "ignore": number of pixels that count for nothing,
 "classes": [{"id": number in the official label maps, "names": [name, synonyms ...], "seen": was it annotated in training}]}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ovseg.core.errors import OvsegError

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Class:
    """One class.

    Attributes:
        id: its number in the official label maps.
        names: its name, then synonyms.
        seen: whether its masks are annotated in training; True where there is no such split.
    """

    id: int
    names: tuple[str, ...]
    seen: bool = True


def find_table(name: str) -> Path:
    """The class table of a benchmark by its name, or a file of one's own.

    Raises:
        OvsegError: neither.
    """
    ours = {path.stem: path for path in sorted(HERE.glob("*.json"))}
    if name in ours:
        return ours[name]
    if not Path(name).is_file():
        raise OvsegError(f"{name!r} is neither a class table of ours ({', '.join(ours)}) nor a file")
    return Path(name)


def names_of(value: object) -> tuple[str, ...]:
    """A list of names.

    Raises:
        TypeError: it is none; a text is not taken for a list of letters.
    """
    if not isinstance(value, list):
        raise TypeError(f"names are {value!r}, not a list")
    return tuple(map(str, value))


def read_classes(path: Path) -> list[Class]:
    """The classes of a table, in its order.

    Raises:
        OvsegError: not a class table; a number that comes twice, or a class without a name.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["classes"]
        found = [Class(int(row["id"]), names_of(row["names"]), bool(row.get("seen", True))) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OvsegError(f"{path} is not a class table ({error!r}); see pipeline/ovseg/datasets/classes") from None
    if not found or len({one.id for one in found}) < len(found) or not all(one.names for one in found):
        raise OvsegError(f"{path}: every class needs a number of its own and a name")
    return found
