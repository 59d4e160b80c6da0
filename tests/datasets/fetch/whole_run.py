"""All of a data set in one process, from its server to benchmarks and shards, which can kill itself and all its group.

`python -m tests.datasets.fetch.whole_run RUN.json`, which holds the fields of `Run`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MORE = 3


@dataclass(frozen=True)
class Run:
    """What to do, and when to stop it.

    Attributes:
        table: of releases.
        mirror: address of a folder with all archives.
        folder: for data sets, benchmarks/NAME, and mined/.
        benchmarks: benchmark -> its data set.
        clip, tagger: to mine COCO with.
        steps: data sets, and "mine".
        kill: pattern of a path that is written, how many times it is, and milliseconds after that, 0 for just before.
    """

    table: str
    mirror: str
    folder: str
    benchmarks: dict[str, str]
    clip: str
    tagger: str
    steps: tuple[str, ...] = ()
    kill: tuple[str, int, float] | None = None


def main(run: Run) -> None:
    """Do all of it."""
    if run.kill:
        _arm(*run.kill)
    for step in run.steps:
        if step == "mine":
            _mine(run)
        else:
            _arrive(run, step)


def _arrive(run: Run, dataset: str) -> None:
    from ovseg.datasets.fetch.parts import fetch, verify
    from ovseg.datasets.fetch.releases import parts_of
    from ovseg.datasets.official import convert

    home = Path(run.folder, dataset)
    for part in parts_of(dataset, table=Path(run.table)):
        fetch(part, home, run.mirror)
        verify(part, home)
    for name in (name for name, one in run.benchmarks.items() if one == dataset):
        convert(name, home, Path(run.folder, "benchmarks", name), allow_missing=True)


def _mine(run: Run) -> None:
    from ovseg.core.options import ClipOptions, IndexOptions, NounsOptions, ProposeOptions, RunOptions, ShardsOptions
    from ovseg.engine.runtime import Runtime
    from ovseg.mining.run import mine_pairs

    coco = Path(run.folder, "coco")
    options = RunOptions(
        index=IndexOptions(images=coco / "train2017", captions=coco / "annotations/captions_train2017.json"),
        nouns=NounsOptions(model=run.tagger),
        propose=ProposeOptions(source="ground_truth", path=coco / "annotations/instances_train2017.json"),
        clip=ClipOptions(model=f"local-dir:{run.clip}"),
        shards=ShardsOptions(min_shards=2),
    )
    mine_pairs(options, Path(run.folder, "mined"), Runtime(workers=1))


def _arm(pattern: str, times: int, delay: float) -> None:
    """Kill the whole group a moment after a file of that name is opened for writing, renamed or removed for the n-th time.

    After `MORE` such events of any file it is too late: however busy the machine, what was meant is what is killed.
    """
    seen, after, wanted = 0, 0, re.compile(pattern)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen, after
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not writes and event not in ("os.rename", "os.remove"):
            return
        if seen < times:
            seen += wanted.search(str(arguments[0])) is not None
            if seen == times:
                threading.Timer(delay / 1e3, _kill).start() if delay else _kill()
        else:
            after += 1
            if after > MORE:
                _kill()

    sys.addaudithook(hook)


def _kill() -> None:
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main(Run(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
