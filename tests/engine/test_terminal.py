"""Lines fit a terminal and stay whole elsewhere; a bar leaves its counts the room that there is."""

from __future__ import annotations

import io
import logging
import os
import re
from pathlib import Path

import pytest
from rich.console import Console

from ovseg.engine.progress import Progress, make_bar
from ovseg.engine.terminal import fit_terminal

LINE = "propose: 48 images (7/s), 925 proposals (130/s), 153 annotated masks (21/s) in 7.1 s -> data/proposals"
COUNTS = {"images": 48, "proposals": 925, "annotated_masks": 153, "dropped.too_small": 12}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((80, 24)))


def test_a_line_stays_whole_in_a_file_or_pipe() -> None:
    assert fit_terminal(LINE) == LINE


@pytest.mark.usefixtures("terminal")
def test_lines_fit_the_terminal_and_are_broken_between_words() -> None:
    lines = fit_terminal(f"{LINE}\nshort").splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 80 and lines[1].startswith("  ")
    assert f"{lines[0]} {lines[1].strip()}" == LINE and lines[2] == "short"


@pytest.mark.usefixtures("terminal")
def test_a_path_that_is_longer_than_the_terminal_is_not_broken() -> None:
    path = Path("/", *["folder"] * 20)
    assert str(path) in fit_terminal(f"index: 40 images -> {path}").splitlines()[-1]


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("step", ["index", "proposal_network"])
def test_a_bar_is_one_line_that_has_the_fraction_the_time_left_and_as_many_counts_as_fit(width: int, step: str) -> None:
    stream = io.StringIO()
    bar = make_bar(Console(file=stream, width=width, force_terminal=True, color_system=None))
    task = bar.add_task(step, total=4, message="48 images (7/s), 925 proposals (130/s), 153 annotated masks (21/s)")
    bar.update(task, completed=2)
    with bar:
        pass
    lines = re.sub(r"\x1b\[[?0-9]+[hlK]", "", stream.getvalue()).split("\r")
    line = lines[-1].rstrip("\n")
    assert (
        len(line) <= width
        and "\n" not in line
        and step in line
        and " 50% " in line
        and "ETA -" in line
        and "48 images" in line
    )


def test_progress_that_is_not_shown_on_a_terminal_is_logged(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.INFO), Progress("propose", 1) as progress:
        progress.add(COUNTS)
        progress.finish(tmp_path)
    assert "dropped 12 too small in" in caplog.text and caplog.text.count("\n") == 1
