"""Folders of images and label maps: which of their files are read. One rule for every step that looks into a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from ovseg.core.errors import OvsegError
from ovseg.core.files import walk
from ovseg.core.image_formats import image_suffixes
from ovseg.core.paths import is_remote

FILES_OF_FILE_SYSTEMS = frozenset(
    {".directory", ".ds_store", ".localized", ".nomedia", "desktop.ini", "ehthumbs.db", "ehthumbs_vista.db", "icon\r"}
    | {"picasa.ini", ".picasa.ini", "thumbs.db"}
)
FOLDERS_OF_FILE_SYSTEMS = frozenset(
    {"$recycle.bin", "__macosx", "@eadir", "lost+found", "system volume information", ".appledouble", ".fseventsd"}
    | {".ipynb_checkpoints", ".spotlight-v100", ".temporaryitems", ".thumbnails", ".trashes", ".git", ".dvc"}
)
EXAMPLES = 5  # how many files a sentence names


class FolderContent(NamedTuple):
    """The files of a folder and its subfolders, without those that file systems and file managers leave there.

    Attributes:
        images: the files with a suffix of an image, sorted; paths below the folder, with slashes.
        unread: the other files, and folders that cannot be opened, sorted.
    """

    images: tuple[str, ...]
    unread: tuple[str, ...]


def is_file_system_file(path: str) -> bool:
    """Whether a file was left by a file system or file manager: `._a.jpg`, `.DS_Store`, `Thumbs.db`, all in `__MACOSX`.

    Args:
        path: a path with slashes, in a folder or an archive.
    """
    *folders, name = path.lower().split("/")
    return (
        name.startswith("._")
        or name in FILES_OF_FILE_SYSTEMS
        or any(folder in FOLDERS_OF_FILE_SYSTEMS for folder in folders)
    )


def walk_images(folder: Path) -> FolderContent:
    """List the image files of a folder: all suffixes that are decoded on this machine, in upper or lower case.

    Links to folders are followed, each folder once. A file whose name begins with a dot is hidden, and no image.

    Args:
        folder: the folder; one that does not exist has no files.

    Raises:
        OvsegError: the folder is in object storage.
    """
    if is_remote(folder):
        raise OvsegError(
            f"{folder} is a folder of images in object storage, which is not looked through; copy it here first"
        )
    images: list[str] = []
    unread: list[str] = []

    def note_unopened(error: OSError) -> None:
        if os.path.lexists(error.filename):
            unread.append(f"{PurePath(os.path.relpath(error.filename, folder)).as_posix()}/")

    for path in walk(folder, is_file_system_file, note_unopened):
        name = PurePath(path).name
        is_image = PurePath(path).suffix.lower() in image_suffixes() and not name.startswith(".")
        (images if is_image else unread).append(path)
    return FolderContent(tuple(sorted(images)), tuple(sorted(unread)))


def describe_files(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    return ", ".join(names[:EXAMPLES]) + more


def by_stem(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Map the path of each file without its suffix to the file.

    Args:
        folder: the folder, for the error.
        names: paths below it.

    Raises:
        OvsegError: two files differ only in their suffixes.
    """
    files: dict[str, str] = {}
    for name in names:
        stem = PurePath(name).with_suffix("").as_posix()
        if files.setdefault(stem, name) != name:
            raise OvsegError(
                f"{folder} has both {files[stem]} and {name}, and nothing says which one is meant; remove one"
            )
    return files
