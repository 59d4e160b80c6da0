"""What a benchmark gives: rows of a table, targets, and a JSON file that says on what machine they came about."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("torch", "open_clip_torch", "numpy", "pillow", "pycocotools", "pyarrow", "spacy", "thinc", "webdataset")
NOISY = 0.05  # of all cores: above that, what others did shows in the figures

Row = dict[str, str | float]


@dataclass(frozen=True)
class Options:
    """How a benchmark is run.

    Attributes:
        folder: empty scratch folder, removed afterwards.
        every: also the slower variants.
        smoke: tiny sizes, only to see that it runs.
    """

    folder: Path
    every: bool = False
    smoke: bool = False


@dataclass(frozen=True)
class Target:
    """A ratio that has to be reached (or, for `most`, not to be passed)."""

    name: str
    value: float
    limit: float
    most: bool = False

    @property
    def met(self) -> bool:
        return self.value <= self.limit if self.most else self.value >= self.limit

    def __str__(self) -> str:
        sign = "<=" if self.most else ">="
        return f"{self.name}: {self.value:.2f} (target {sign} {self.limit:.2f}): {'met' if self.met else 'MISSED'}"


class Turn(NamedTuple):
    """One measurement: its rate, and the share of all cores that others took meanwhile."""

    rate: float
    others: float


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        setup: on what, as one line of a table says it: counts, sizes, model.
        rows: of the table, all with the same columns.
        targets: what must hold.
        turns: every turn of each way, from `interleave`.
    """

    setup: dict[str, str | float]
    rows: list[Row]
    targets: list[Target] = field(default_factory=list)
    turns: dict[str, list[Turn]] = field(default_factory=dict)


Benchmark = Callable[[Options], Result]


def measure(name: str, benchmark: Benchmark, options: Options) -> bool:
    """Run one benchmark, print its table, write its file. Returns whether all targets are met."""
    begun = time.monotonic()
    with others() as load:
        result = benchmark(options)
    noise = [turn.others for turns in result.turns.values() for turn in turns]
    share = mean(noise) if noise else load["share"]
    print_table(name, result, time.monotonic() - begun, share)
    if not options.smoke:
        record = {
            "benchmark": name,
            "command": f"python -m benchmarks {name}{' --all' if options.every else ''}",
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "machine": machine(),
            "versions": versions(),
            "others_share_of_cpu": round(share, 3),
            "setup": result.setup,
            "rows": [rounded(row) for row in result.rows],
            "targets": [{**rounded(vars(t)), "met": t.met} for t in result.targets],
            "turns": {way: [rounded(turn._asdict()) for turn in turns] for way, turns in result.turns.items()},
        }
        FOLDER.mkdir(exist_ok=True)
        path = FOLDER / f"{name}-{slug()}.json"
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"-> benchmarks/results/{path.name}")
    return all(target.met for target in result.targets)


def print_table(name: str, result: Result, seconds: float, noise: float) -> None:
    setup = ", ".join(f"{key} {_text(value)}" for key, value in result.setup.items())
    print(f"\n## {name}: {setup} ({seconds:.0f} s)")
    columns = list(result.rows[0])
    cells = [columns, *([_text(row[column]) for column in columns] for row in result.rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for number, line in enumerate(cells):
        first, *rest = zip(line, widths, strict=True)
        print(f"| {' | '.join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)])} |")
        if number == 0:
            print("|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|")
    for target in result.targets:
        print(target)
    if noise > NOISY:
        print(f"NOISY: others took {noise:.0%} of the processor meanwhile; run it again when the machine is free")


def interleave(ways: dict[str, Callable[[int], float]], repeats: int) -> dict[str, list[Turn]]:
    """Call each way once a round, so that a slow minute of the machine meets all of them.

    A turn that others disturbed is taken again, as long as there are spare ones.

    Args:
        ways: name -> a function of the number of the round that returns a rate.
        repeats: rounds, and spare turns for each way.

    Returns:
        name -> its turns.
    """
    found: dict[str, list[Turn]] = {name: [] for name in ways}
    spare = repeats * len(ways)
    for repeat in range(repeats):
        for name, way in ways.items():
            turn = _turn(way, repeat)
            while turn.others > NOISY and spare:
                spare -= 1
                turn = min(turn, _turn(way, repeat), key=lambda one: one.others)
            found[name].append(turn)
    return found


def _turn(way: Callable[[int], float], repeat: int) -> Turn:
    with others() as load:
        rate = way(repeat)
    return Turn(rate, load["share"])


def medians(found: dict[str, list[Turn]]) -> dict[str, float]:
    return {name: median(turn.rate for turn in turns) for name, turns in found.items()}


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def machine() -> dict[str, Any]:
    """What the figures depend on; no name or path of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = _gpus()
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
        "system": platform.system(),
        **({"gpus": gpus} if gpus else {}),
    }


def slug() -> str:
    """The machine as part of a file name: processor, cores, and GPU if there is one."""
    said = f"{_cpu()} {len(os.sched_getaffinity(0))}c {' '.join(sorted(set(_gpus())))}"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)|processor|cpu", "", said.lower())).strip("-")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


@contextmanager
def others() -> Iterator[dict[str, float]]:
    """The share of all cores that processes other than this one and its children took meanwhile, under "share"."""
    found = {"share": 0.0}
    begun, busy, own = time.monotonic(), _busy(), _own()
    yield found
    available = (time.monotonic() - begun) * (os.cpu_count() or 1)
    found["share"] = max(0.0, (_busy() - busy - (_own() - own)) / available)


def _busy() -> float:
    """Seconds that all cores together were not idle since the start of the machine; 0 where the system does not say."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq = map(int, stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.M) if info.exists() else None
    return " ".join((found[1] if found else platform.processor() or platform.machine()).split())


def _gpus() -> list[str]:
    from ovseg.engine.runtime import devices

    if not devices("auto")[0].startswith("cuda"):
        return []
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
