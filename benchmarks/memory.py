"""Memory: peak resident size of `ovseg-mine run` on N and on 10 N images.

    python -m benchmarks memory       about 4 minutes on two cores

N = 40 COCO images with their captions and panoptic masks; the larger set has the same images ten times with new ids. The peak
is that of the largest process among the command and its child processes, as the operating system reports it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import inputs
from benchmarks.results import Options, Result, Row, Target

IMAGES, FACTOR = 40, 10
DEMO_CLIP = inputs.ROOT / "data" / "demo" / "clip"
BATCH = 64


def run(options: Options) -> Result:
    number, factor = (4, 2) if options.smoke else (IMAGES, FACTOR)
    model = f"local-dir:{DEMO_CLIP}" if (DEMO_CLIP / "open_clip_config.json").is_file() else "ViT-B-32:random"
    rows: list[Row] = []
    for copies in (1, factor):
        data = inputs.images(options.folder / f"data-{copies}", number, copies)
        peak, seconds = _peak(data, model, options.folder / f"run-{copies}")
        rows.append({"images": data.number, "peak MiB": peak, "seconds": seconds})
    ratio = float(rows[1]["peak MiB"]) / float(rows[0]["peak MiB"])
    clip = model if DEMO_CLIP.name not in model else "data/demo/clip"
    setup: dict[str, str | float] = {
        "images": number,
        "photographs": str(data.real).lower(),
        "clip": clip,
        "precision": "fp32",
        "batch": BATCH,
        "workers": 1,
    }
    return Result(setup, rows, [Target(f"peak of {factor}x the images / peak", ratio, 1.15, is_maximum=True)])


def _peak(data: inputs.Images, model: str, folder: Path) -> tuple[float, float]:
    """Run the command in a process of its own; return its peak resident size in MiB and its seconds.

    Raises:
        SystemExit: the run fails; the message has the end of its output.
    """
    command = [
        sys.executable,
        "-m",
        "ovseg.cli.mine",
        "run",
        "--images",
        data.images,
        "--captions",
        data.captions,
        "--proposals",
        f"ground_truth:{data.masks}",
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
    start = time.perf_counter()
    with (folder / "log").open("wb") as log:
        environment = {**os.environ, "OVSEG_WORK": str(folder / "work")}
        child = subprocess.Popen([str(word) for word in command], env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        output = (folder / "log").read_text(encoding="utf-8")
        raise SystemExit(f"the run failed ({child.returncode}):\n{output[-2000:]}")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return usage.ru_maxrss / unit, time.perf_counter() - start
