"""What `ovseg app` does: finds models, calibrated settings, examples and pairs, and serves the page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import typer

from ovseg.app.answers import Answers
from ovseg.app.pair_pages import PairPages
from ovseg.app.segment_handlers import THRESHOLDS
from ovseg.app.segment_tab import Start
from ovseg.app.server import serve
from ovseg.cli.segment import find_settings
from ovseg.core.errors import OvsegError
from ovseg.core.folders import walk_images
from ovseg.core.json_files import read_json
from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.core.paths import is_remote, to_path
from ovseg.engine.runtime import devices
from ovseg.evaluation.calibrate import Choice
from ovseg.segmentation.segmenter import load_segmenters

MAX_EXAMPLES = 8
RUN = "run.json"  # of `ovseg-mine run`: names the folder of its images


def run_app(
    *,
    clips: Sequence[Path],
    network: Path,
    words: str,
    examples: Path | None,
    run: Path | None,
    images: Path | None,
    marks: Path | None,
    options: SegmentOptions,
    crop: CropOptions,
    device: str,
    host: str,
    port: int | None,
    share: bool,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        clips: the folders of the CLIPs that are compared; what was calibrated for the last one counts for all.
        network: the folder of the proposal network.
        words: the words that the page starts with.
        examples: a folder of images, of which the first are offered; None for none.
        run: the folder of the tables of a run; None for no tab of pairs.
        images: the folder of its images; None for the one that the run states.
        marks: the CSV of wrong pairs; None for `wrong_pairs.csv` in the run, or in the working folder if the run is at a URL.
        options, crop: how an image is segmented, and the crop recipe; see `find_settings` for fields that are not set.
        device: the torch device, or "auto".
        host, port, share: see `serve`.

    Raises:
        OvsegError: Gradio is not installed, a model or a table cannot be loaded, or the port is taken.
    """
    choice, options, crop = find_settings(network, clips[-1], options, crop)
    start = _start(choice, words, examples)
    pages = None if run is None else find_pairs(run, images, marks)
    answers = Answers(load_segmenters(network, _names(clips), devices(device)[0], options=options, crop=crop))
    with serve(answers, start, pages, host=host, port=port, share=share) as address:
        typer.echo(f"{address} (Ctrl-C stops it)")
        while True:
            time.sleep(3600)


def _start(choice: Choice, words: str, examples: Path | None) -> Start:
    threshold = min(max(choice.mask_threshold, min(THRESHOLDS)), max(THRESHOLDS))
    if examples is not None and not examples.is_dir():
        raise OvsegError(f"--examples {examples} is not a folder of images")
    found = () if examples is None else walk_images(examples).images[:MAX_EXAMPLES]
    return Start(words, choice.weight, threshold, [examples / name for name in found if examples is not None])


def _names(clips: Sequence[Path]) -> dict[str, Path]:
    """The name of each CLIP: that of its folder or, where two have the same, its whole path."""
    names = [clip.resolve().name for clip in clips]
    return {name if names.count(name) == 1 else str(clip): clip for name, clip in zip(names, clips, strict=True)}


def find_pairs(run: Path, images: Path | None, marks: Path | None) -> PairPages:
    """Return the pairs of a run; see `run_app` for the arguments.

    Raises:
        OvsegError: a table is missing, the run does not say where its images are, or the marks are not on this machine.
    """
    marks = marks or (Path() if is_remote(run) else run) / "wrong_pairs.csv"
    if is_remote(marks):
        raise OvsegError(f"--marks {marks} is a URL; give a file of this machine, as marks are written one by one")
    return PairPages(run, images or _images_of(run), marks)


def _images_of(run: Path) -> Path:
    path = run / RUN
    if not path.is_file():
        raise OvsegError(f"{run} does not say where its images are; give their folder as --images")
    return to_path(read_json(path)["options"]["index"]["images"])
