"""Folders of images: every suffix that is decoded, in any case; what file systems leave is no image; the rest is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import features

from ovseg.core.errors import OvsegError
from ovseg.core.folders import by_stem, describe_files, is_file_system_file, walk_images
from ovseg.core.image_formats import image_suffixes


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


LEFT_BEHIND = """
._cat.jpg  deep/._x.PNG  .DS_Store  Thumbs.db  sub/THUMBS.DB  desktop.ini  ehthumbs.db
__MACOSX/cat.jpg  a/__MACOSX/b/cat.jpg  @eaDir/cat.jpg  .Trashes/x.jpg  $RECYCLE.BIN/x.jpg
"""


@pytest.mark.parametrize("name", [*LEFT_BEHIND.split(), "Icon\r"])
def test_what_file_systems_leave_is_neither_an_image_nor_mentioned(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "cat.jpg")
    assert is_file_system_file(name)
    assert walk_images(tmp_path) == (("cat.jpg",), ())


def test_suffixes_are_those_of_the_decoder_in_any_case(tmp_path: Path) -> None:
    names = ["a.JPG", "b.jpeg", "c.Webp", "d.TIF", "e.bmp", "f.tiff", "g.GIF", "h.jfif", "i.ppm", "j.jp2", "k.png"]
    names += ["l.AVIF"] if features.check("avif") else []
    touch(tmp_path, *names)
    assert walk_images(tmp_path) == (tuple(sorted(names)), ())
    assert not image_suffixes() & {".pdf", ".eps", ".mpg", ".txt", ".svg", ".hdf"}


def test_what_is_not_read_is_listed(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "a.jpg", "deep/b.heic", "deep/c.png", "no_suffix", ".hidden.jpg", "x.jpg.part")
    unread = (".hidden.jpg", "deep/b.heic", "no_suffix", "notes.txt", "x.jpg.part")
    assert walk_images(tmp_path) == (("a.jpg", "deep/c.png"), unread)
    assert walk_images(tmp_path / "gone") == ((), ())


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    touch(tmp_path / "real", "a.jpg")
    touch(tmp_path / "set", "b.jpg")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    assert walk_images(tmp_path / "set").images == ("b.jpg", "linked/a.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root opens every folder")
def test_a_folder_that_cannot_be_opened_is_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        assert walk_images(tmp_path) == (("a.jpg",), ("closed/",))
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_files_that_differ_in_their_suffix_alone_are_an_error_that_names_both(tmp_path: Path) -> None:
    assert by_stem(tmp_path, ["a.png", "x/a.tif", "v1.0.png"]) == {"a": "a.png", "x/a": "x/a.tif", "v1.0": "v1.0.png"}
    with pytest.raises(OvsegError, match=r"a\.png and a\.tif"):
        by_stem(tmp_path, ["a.png", "a.tif"])


def test_a_sentence_names_a_few_files_and_the_number_of_the_others() -> None:
    assert describe_files(["a", "b"]) == "a, b"
    assert describe_files(list("abcdefgh")) == "a, b, c, d, e and 3 more"
