"""Class tables: the class that each number of an official label map stands for, in one JSON file for each benchmark.

{"source": where the table comes from, "ignore": number of pixels that are not scored,
 "classes": [{"id": number in the official label maps, "names": [name, synonyms ...], "seen": was it annotated in training}]}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ovseg.core.errors import OvsegError
from ovseg.core.json_files import read_json
from ovseg.core.text import normalize

CLASS_TABLES = Path(__file__).parent


@dataclass(frozen=True)
class Class:
    """One class of a benchmark.

    Attributes:
        id: number of the class in the official label maps.
        names: name of the class, then its synonyms.
        seen: whether masks of the class are annotated in training; True where there is no such split.
    """

    id: int
    names: tuple[str, ...]
    seen: bool = True


def find_table(name: str) -> Path:
    """Find a class table.

    Args:
        name: name of a benchmark, or path of a file of the user's.

    Raises:
        OvsegError: if it is neither.
    """
    tables = {path.stem: path for path in sorted(CLASS_TABLES.glob("*.json"))}
    if name in tables:
        return tables[name]
    if not Path(name).is_file():
        raise OvsegError(f"{name!r} is neither a class table of ovseg ({', '.join(tables)}) nor a file")
    return Path(name)


def names_of(value: object) -> tuple[str, ...]:
    """Check a list of names and return them in their normal form.

    Raises:
        TypeError: if it is not a list; a text is not taken for a list of letters.
    """
    if not isinstance(value, list):
        raise TypeError(f"names are {value!r}, not a list")
    return tuple(normalize(str(name)) for name in value)


def read_classes(path: Path) -> list[Class]:
    """Read the classes of a table, in its order.

    Raises:
        OvsegError: if the file is not a class table, a number occurs twice, or a class has no name.
    """
    try:
        rows = read_json(path)["classes"]
        classes = [Class(int(row["id"]), names_of(row["names"]), bool(row.get("seen", True))) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OvsegError(f"{path} is not a class table ({error!r}); see pipeline/ovseg/datasets/classes") from None
    if not classes or len({entry.id for entry in classes}) < len(classes) or not all(entry.names for entry in classes):
        raise OvsegError(f"{path}: every class needs a name and a number that no other class has")
    return classes
