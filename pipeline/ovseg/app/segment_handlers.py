"""What the controls of segmentation do: each function takes the values of controls and returns those of others.

Errors that a user can correct become messages on the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.app.answers import Answers, read_question
from ovseg.app.outputs import read_upload, write_answer, write_batch
from ovseg.app.view import describe_view, message, region_tables
from ovseg.core.errors import OvsegError

THRESHOLDS = (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8)
"""The positions of the threshold's slider; their regions are embedded in this order after the first answer."""
PREPARE_SECONDS = 10.0


@dataclass(frozen=True)
class SegmentHandlers:
    """The functions of the tab.

    Attributes:
        answers: the models.
        outputs: the folder of files for download.
    """

    answers: Answers
    outputs: Path

    def show(
        self, path: str | None, words: str, weight: float, threshold: float, others: bool
    ) -> tuple[dict[str, Any] | None, str, str]:
        """Return what the view draws, a message, and an empty table of regions."""
        if path is None:
            return None, message("Drop an image first, or choose an example."), ""
        try:
            data = read_upload(Path(path))
            found = self.answers.answer(data, read_question(words, weight, threshold, others))
            shown = describe_view(self.answers.pixels(data), found)
        except OvsegError as problem:
            return None, _problem(problem), ""
        return shown, message("Click a region, or a class below the image, to see the most probable words."), ""

    def prepare(self, path: str | None, words: str) -> None:
        """Embed the regions of all positions of the threshold's slider; errors have been shown before."""
        if path is None or not words.strip():
            return
        try:
            self.answers.prepare(read_upload(Path(path)), THRESHOLDS, PREPARE_SECONDS)
        except OvsegError:
            return

    def describe(self, position: dict[str, Any], path: str | None, *asked: Any) -> str:
        """Return the tables of the region at a pixel, whose "x" and "y" are given."""
        if path is None:
            return ""
        try:
            x, y = int(position["x"]), int(position["y"])
            return region_tables(self.answers.region_at(read_upload(Path(path)), read_question(*asked), y, x))
        except OvsegError as problem:
            return _problem(problem)

    def save(self, path: str | None, *asked: Any) -> tuple[list[str] | None, str]:
        """Return the files of the present answer, and a message."""
        if path is None:
            return None, message("There is no image yet.", problem=True)
        try:
            written = write_answer(self.answers, Path(path), read_question(*asked), self.outputs)
        except OvsegError as problem:
            return None, _problem(problem)
        return [str(file) for file in written], message("The files are ready.")

    def save_batch(self, paths: list[str] | None, *asked: Any) -> tuple[str | None, str]:
        """Return the zip of the answers for many images, and a message that names those that are left out."""
        try:
            images = [Path(path) for path in paths or ()]
            archive, text = write_batch(self.answers, images, read_question(*asked), self.outputs)
        except OvsegError as problem:
            return None, _problem(problem)
        return str(archive), message(text)


def _problem(problem: OvsegError) -> str:
    text = str(problem)
    return message(text[:1].upper() + text[1:], problem=True)
