"""Files of answers for download: overlay, label map and JSON, as `ovseg segment` writes them; for many images a zip."""

from __future__ import annotations

import shutil
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ovseg.app.answers import Answers, Question
from ovseg.core.errors import OvsegError
from ovseg.segmentation.image_files import write_segmentation

KEEP_SECONDS = 3600
MAX_BATCH = 64  # images


def read_upload(image: Path) -> bytes:
    """Read an uploaded image file.

    Raises:
        OvsegError: the server has deleted it, which it does after an hour.
    """
    try:
        return image.read_bytes()
    except FileNotFoundError:
        raise OvsegError("the upload is gone after an hour; drop the image again") from None


def write_answer(answers: Answers, image: Path, question: Question, folder: Path) -> list[Path]:
    """Write the three files of each model's answer for an image.

    Args:
        answers: the models.
        image: the image file; its name is that of the output.
        question: the classes and settings.
        folder: the folder of downloads; the files come into a new folder in it.

    Returns:
        the files: <image>.<model>.overlay.png, .labels.png and .json. A model that is named by a path has its number and the
        name of its folder in them instead.

    Raises:
        OvsegError: see `Answers.answer`.
    """
    target = _new_folder(folder)
    _write(answers, image, question, target)
    return sorted(target.iterdir())


def write_batch(answers: Answers, images: Sequence[Path], question: Question, folder: Path) -> tuple[Path, str]:
    """Write the files of many images into one zip.

    Args:
        answers, question, folder: as in `write_answer`.
        images: the image files; those that are gone or cannot be read are left out.

    Returns:
        the zip, and a sentence that says how many images it holds and which are left out.

    Raises:
        OvsegError: there is no image, there are more than `MAX_BATCH`, two have the same name, or none can be read.
    """
    if not images:
        raise OvsegError("there are no images yet")
    if len(images) > MAX_BATCH:
        raise OvsegError(f"{len(images)} images are more than the {MAX_BATCH} of this page; use `ovseg segment`")
    if repeated := {image.stem for image in images if sum(other.stem == image.stem for other in images) > 1}:
        raise OvsegError(
            f"several images are named {', '.join(sorted(repeated))}; their answers would have the same name"
        )
    target, problems = _new_folder(folder), []
    for image in images:
        try:
            _write(answers, image, question, target)
        except OvsegError as problem:
            problems.append(f"{image.name}: {problem}")
    if len(problems) == len(images):
        raise OvsegError("; ".join(problems))
    archive = _new_folder(folder) / "segmented.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as stream:
        for path in sorted(target.iterdir()):
            stream.write(path, path.name)
    shutil.rmtree(target)
    left_out = f"; left out: {'; '.join(problems)}" if problems else ""
    return archive, f"{len(images) - len(problems)} of {len(images)} images are segmented{left_out}."


def _write(answers: Answers, image: Path, question: Question, target: Path) -> None:
    data = read_upload(image)
    found = answers.answer(data, question)
    for number, (name, answer) in enumerate(found.items(), start=1):
        record = {"image": image.name, "model": name, "settings": asdict(question)}
        in_file_names = f"{number}_{Path(name).name}" if "/" in name else name
        write_segmentation(target / f"{image.stem}.{in_file_names}", answers.pixels(data), answer.segmentation, record)


def _new_folder(folder: Path) -> Path:
    """Make a folder in `folder`, after removing those that are older than `KEEP_SECONDS`."""
    for old in folder.iterdir():
        if time.time() - old.stat().st_mtime > KEEP_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=folder))
