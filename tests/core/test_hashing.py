"""The hash of a folder: it changes when a step that reads the folder would read something else."""

from __future__ import annotations

from pathlib import Path

from ovseg.core.folders import walk_images
from ovseg.core.hashing import sha256_path


def test_the_hash_of_a_folder_without_links_is_the_one_in_published_manifests(tmp_path: Path) -> None:
    for name in ("b.txt", "a/c.txt", "a/d/.hidden", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert sha256_path(tmp_path) == "4167011b9b87270f5ad49a989fc2aceb6bfdf0e69e484f2af76d70689e3fd7ac"


def test_a_file_behind_a_linked_folder_counts_as_it_is_read(tmp_path: Path) -> None:
    maps, folder = tmp_path / "corrected" / "maps", tmp_path / "benchmark"
    maps.mkdir(parents=True)
    folder.mkdir()
    (maps / "1.png").write_bytes(b"wrong")
    (folder / "labels").symlink_to(maps)
    (folder / "loop").symlink_to(folder)
    assert walk_images(folder).images == ("labels/1.png",)
    before = sha256_path(folder)
    (maps / "1.png").write_bytes(b"right")
    assert sha256_path(folder) != before
