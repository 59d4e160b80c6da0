"""Write files and folders. JSON files and folders are replaced in one step, so that a reader never sees half of one."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from ovseg.core.errors import OvsegError

HOME = re.compile(r"(?:^|(?<=[=:]))~(?:$|[^/\s]*(?=/))")  # ~ alone, or ~/ or ~USER/ at the beginning of a path
CURVES = "training.tsv"  # the curves of a training, in the folder of the model that it made


def expand_home(text: str) -> str:
    """Replace a `~` or `~USER` that begins a path by the home folder.

    Args:
        text: a path, or one after a colon or an equals sign ("local-dir:~/clip", "--out=~/run"), where shells leave the `~`.

    Raises:
        OvsegError: there is no such user, or this user has no home folder.
    """

    def home(match: re.Match[str]) -> str:
        folder = os.path.expanduser(match[0])  # noqa: PTH111 - Path.expanduser raises where there is no home folder
        if folder == match[0]:
            reason = "this user has no home folder; set HOME or" if match[0] == "~" else "there is no such user;"
            raise OvsegError(f"{match[0]} in {text!r} cannot be replaced, because {reason} give the whole path")
        return folder.rstrip("/") if match.end() < len(text) else folder

    return HOME.sub(home, text)


def user_cache() -> Path:
    """Return the folder of this user's caches: `$XDG_CACHE_HOME`, or `.cache` in the home folder.

    Raises:
        OvsegError: this user has no home folder.
    """
    return Path(expand_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))


def walk(
    folder: Path,
    is_left_out: Callable[[str], bool] = lambda _: False,
    on_error: Callable[[OSError], object] | None = None,
) -> Iterator[str]:
    """Iterate over the files of a folder and its subfolders. Links to folders are followed, each folder once.

    Args:
        folder: a folder of this machine; one that does not exist has no files.
        is_left_out: whether a file or a folder is left out, by its path below `folder`, with slashes; a folder's ends with one.
        on_error: is called with the error of each folder that cannot be opened.

    Yields:
        paths below the folder, with slashes, in no particular order.
    """
    visited = {folder.resolve()}
    for root, folders, files in os.walk(folder, followlinks=True, onerror=on_error):
        below = PurePath(os.path.relpath(root, folder))
        kept = []
        for name in sorted(folders):
            real = Path(root, name).resolve()
            if real not in visited and not is_left_out(f"{(below / name).as_posix()}/"):
                visited.add(real)
                kept.append(name)
        folders[:] = kept
        paths = ((below / name).as_posix() for name in files)
        yield from (path for path in paths if not is_left_out(path))


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON to `path` atomically: to a temporary file, synced to disk, then renamed.

    In object storage a file is there when all of it is.
    """
    text = json.dumps(value, indent=1) + "\n"
    if not isinstance(path, Path):
        path.write_text(text, encoding="utf-8")
        return
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_tsv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a header and rows as tab-separated values, the format that `dvc plots` reads."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def replace_folder(staged: Path, out: Path) -> None:
    """Move the finished folder `staged` to `out`; an old `out` is deleted only after the new one is in place."""
    old = out.with_name(out.name + ".old")
    if old.is_symlink():  # which rmtree refuses
        old.unlink()
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    staged.replace(out)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until the bytes of the file at `path` are on disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link `source` to `target`, or copy it where the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
