"""Items that could not be read are tried again: at the end of their step, and by `ovseg-mine retry`."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ovseg.core import retries, tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import ClipOptions, IndexOptions, NounsOptions, ProposeOptions, RunOptions
from ovseg.engine.runtime import Runtime
from ovseg.mining.run import mine_pairs, read_options
from tests.conftest import Coco, digests

UNREADABLE = Path("/proc/self/mem")  # a file that exists, and whose first byte gives an input/output error


@pytest.mark.slow
@pytest.mark.skipif(not UNREADABLE.exists(), reason="this system has no /proc")
def test_a_retry_makes_what_a_run_without_the_failure_makes(
    coco: Coco,
    tagger: str,
    tiny_clip: Path,
    tmp_path: Path,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While an image cannot be read it is dropped as unreadable; a missing one is never tried again."""
    monkeypatch.setattr(retries, "PAUSES", (0.01, 0.01))
    images = Path(shutil.copytree(coco.images, tmp_path / "images"))
    first, second, *_ = sorted(images.iterdir())
    second.unlink()
    kept = first.rename(tmp_path / "kept.jpg")
    first.symlink_to(UNREADABLE)
    options = RunOptions(
        index=IndexOptions(images=images, captions=coco.captions),
        propose=ProposeOptions(source="ground_truth", path=coco.instances),
        clip=ClipOptions(model=f"local-dir:{tiny_clip}"),
        nouns=NounsOptions(model=tagger),
    )
    out = tmp_path / "out"
    counts = mine_pairs(options, out, runtime)["index"]
    assert (counts["dropped.unreadable"], counts["dropped.missing"]) == (1, 1)
    assert caplog.text.count("failed for a reason that may pass; once more") == 1
    before = digests(out)
    assert mine_pairs(read_options(out), out, replace(runtime, retry=True))["index"] == counts  # it has not passed yet
    assert digests(out) == before

    first.unlink()
    kept.rename(first)
    counts = mine_pairs(read_options(out), out, replace(runtime, retry=True))["index"]
    assert "dropped.unreadable" not in counts and counts["dropped.missing"] == 1
    caplog.clear()
    caplog.set_level(logging.INFO, "ovseg")
    again = mine_pairs(read_options(out), out, replace(runtime, retry=True))["index"]
    assert again == counts and caplog.text.count("done before") == 6  # nothing is left to try
    mine_pairs(options, tmp_path / "whole", replace(runtime, work=tmp_path / "work"))
    names = [name for name in digests(out) if name not in ("run.json",)]
    assert {name: digests(out)[name] for name in names} == {name: digests(tmp_path / "whole")[name] for name in names}
    assert tables.read(out / "index", "index").num_rows == 6


def test_a_folder_of_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(OvsegError, match="was not written by `ovseg-mine run`"):
        read_options(tmp_path)
