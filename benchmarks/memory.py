"""Memory: peak resident size of a real `ovseg-mine run` on N and on 10 N images.

    python -m benchmarks memory       about 4 minutes on two cores

N = 40 COCO images with their captions and panoptic masks; the tenfold set is the same images under new ids. The
peak is what the system says of the finished child process and of its own children, whichever was largest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import inputs
from benchmarks.results import Options, Result, Row, Target

IMAGES, TIMES = 40, 10
DEMO_CLIP = inputs.ROOT / "data" / "demo" / "clip"
BATCH = 64


def run(options: Options) -> Result:
    number, times = (4, 2) if options.smoke else (IMAGES, TIMES)
    model = f"local-dir:{DEMO_CLIP}" if (DEMO_CLIP / "open_clip_config.json").is_file() else "ViT-B-32:random"
    rows: list[Row] = []
    for copies in (1, times):
        found = inputs.images(options.folder / f"data-{copies}", number, copies)
        peak, seconds = _peak(found, model, options.folder / f"run-{copies}")
        rows.append({"images": found.number, "peak MiB": peak, "seconds": seconds})
    ratio = float(rows[1]["peak MiB"]) / float(rows[0]["peak MiB"])
    named = model if DEMO_CLIP.name not in model else "data/demo/clip"
    setup: dict[str, str | float] = {
        "images": number,
        "photographs": str(found.real).lower(),
        "clip": named,
        "precision": "fp32",
        "batch": BATCH,
        "workers": 1,
    }
    return Result(setup, rows, [Target(f"peak of {times}x the images / peak", ratio, 1.15, most=True)])


def _peak(found: inputs.Images, model: str, folder: Path) -> tuple[float, float]:
    """Peak resident size in MiB and seconds of a run in a process of its own.

    Raises:
        SystemExit: if the run fails; with what it said.
    """
    command = [
        sys.executable,
        "-m",
        "ovseg.cli",
        "run",
        "--images",
        found.images,
        "--captions",
        found.captions,
        "--proposals",
        f"ground_truth:{found.masks}",
        "--nouns-model",
        inputs.tagger(),
        "--clip",
        model,
        "--out",
        folder / "out",
        "--workers",
        "1",
        "--batch-size",
        str(BATCH),
        "--device",
        "cpu",
    ]
    folder.mkdir()
    begun = time.perf_counter()
    with (folder / "log").open("wb") as log:
        environment = {**os.environ, "OVSEG_WORK": str(folder / "work")}
        child = subprocess.Popen([str(word) for word in command], env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        said = (folder / "log").read_text(encoding="utf-8")
        raise SystemExit(f"the run failed ({child.returncode}):\n{said[-2000:]}")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return usage.ru_maxrss / unit, time.perf_counter() - begun
