"""The results of benchmarks: a table, targets, and a JSON file that also describes the machine."""

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

from benchmarks.rates import RATES, Rate, add_rates

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("torch", "open_clip_torch", "numpy", "pillow", "pycocotools", "pyarrow", "spacy", "thinc", "webdataset")
MAX_OTHER_LOAD = 0.05  # fraction of all cores; more load of other processes distorts the figures

Row = dict[str, str | float]


@dataclass(frozen=True)
class Options:
    """How a benchmark is run.

    Attributes:
        folder: empty scratch folder, which is removed afterwards.
        all_variants: True also measures the slower variants.
        smoke: True uses tiny sizes, only to check that the benchmark runs.
        device: the torch device, or "auto"; for the benchmark `gpu`.
        out: the folder of the result; None for benchmarks/results, and for nothing with tiny sizes.
    """

    folder: Path
    all_variants: bool = False
    smoke: bool = False
    device: str = "auto"
    out: Path | None = None


@dataclass(frozen=True)
class Target:
    """A ratio that must reach a limit.

    Attributes:
        name: what is divided by what.
        value: the measured ratio.
        limit: the least value, or with `is_maximum` the largest.
        is_maximum: True if the value must not exceed the limit.
    """

    name: str
    value: float
    limit: float
    is_maximum: bool = False

    @property
    def met(self) -> bool:
        return self.value <= self.limit if self.is_maximum else self.value >= self.limit

    def __str__(self) -> str:
        sign = "<=" if self.is_maximum else ">="
        return f"{self.name}: {self.value:.2f} (target {sign} {self.limit:.2f}): {'met' if self.met else 'MISSED'}"


class Measurement(NamedTuple):
    """One measured rate, and the fraction of all cores that other processes used in the meantime."""

    rate: float
    other_load: float


@dataclass(frozen=True)
class Result:
    """The result of a benchmark.

    Attributes:
        setup: counts, sizes and models that were used, by name.
        rows: rows of the table, all with the same columns.
        targets: ratios that must be reached.
        measurements: all measurements of each variant, from `interleave`.
        rates: rates for the planner.
    """

    setup: dict[str, str | float]
    rows: list[Row]
    targets: list[Target] = field(default_factory=list)
    measurements: dict[str, list[Measurement]] = field(default_factory=dict)
    rates: list[Rate] = field(default_factory=list)


Benchmark = Callable[[Options], Result]
Variant = Callable[[int], float]
"""What `interleave` compares: a function of the number of the round that returns a rate."""


def measure(name: str, benchmark: Benchmark, options: Options) -> bool:
    """Run one benchmark, print its table and write its file; return whether all targets are met."""
    start = time.monotonic()
    with other_load() as load:
        result = benchmark(options)
    loads = [m.other_load for measurements in result.measurements.values() for m in measurements]
    mean_load = mean(loads) if loads else load["fraction"]
    print_table(name, result, time.monotonic() - start, mean_load)
    if not options.smoke or options.out:
        record = {
            "benchmark": name,
            "command": f"python -m benchmarks {name}{' --all' if options.all_variants else ''}",
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "machine": machine(options.device),
            "versions": versions(),
            "other_load": round(mean_load, 3),
            "setup": result.setup,
            "rows": [rounded(row) for row in result.rows],
            **({"rates": [rounded(rate._asdict()) for rate in result.rates]} if result.rates else {}),
            "targets": [{**rounded(vars(t)), "met": t.met} for t in result.targets],
            "measurements": {
                variant: [rounded(m._asdict()) for m in measurements]
                for variant, measurements in result.measurements.items()
            },
        }
        folder = options.out or FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}-{slug(options.device)}.json"
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"-> {path}")
    if result.rates and not options.smoke and (number := add_rates(result.rates)):
        print(f"-> {RATES}: {number} rates")
    return all(target.met for target in result.targets)


def print_table(name: str, result: Result, seconds: float, mean_load: float) -> None:
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
    if mean_load > MAX_OTHER_LOAD:
        print(f"NOISY: other processes used {mean_load:.0%} of the processor; run it again when the machine is idle")


def interleave(variants: dict[str, Variant], repeats: int) -> dict[str, list[Measurement]]:
    """Measure all variants once in each round, so that a slow minute of the machine affects all of them.

    A measurement that other processes disturbed is repeated, up to `repeats` times for each variant.

    Args:
        variants: the variants by name.
        repeats: number of rounds.

    Returns:
        the measurements of each variant by its name.
    """
    measurements: dict[str, list[Measurement]] = {name: [] for name in variants}
    spare = repeats * len(variants)
    for repeat in range(repeats):
        for name, variant in variants.items():
            measurement = _measure_once(variant, repeat)
            while measurement.other_load > MAX_OTHER_LOAD and spare:
                spare -= 1
                measurement = min(measurement, _measure_once(variant, repeat), key=lambda m: m.other_load)
            measurements[name].append(measurement)
    return measurements


def _measure_once(variant: Variant, repeat: int) -> Measurement:
    with other_load() as load:
        rate = variant(repeat)
    return Measurement(rate, load["fraction"])


def medians(measurements: dict[str, list[Measurement]]) -> dict[str, float]:
    """The median rate of each variant by its name."""
    return {name: median(m.rate for m in of_variant) for name, of_variant in measurements.items()}


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def machine(device: str = "auto") -> dict[str, Any]:
    """The hardware that the figures depend on, without any name or path of this machine.

    Args:
        device: the torch devices that were used, as `runtime.devices` takes them; of GPUs, these are named alone.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = gpu_names(device)
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
        "system": platform.system(),
        **({"gpus": gpus} if gpus else {}),
    }


def slug(device: str = "auto") -> str:
    """The machine as part of a file name: processor, cores, and the GPUs that were used; see `machine`."""
    text = f"{_cpu()} {len(os.sched_getaffinity(0))}c {' '.join(sorted(set(gpu_names(device))))}"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)|processor|cpu", "", text.lower())).strip("-")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


@contextmanager
def other_load() -> Iterator[dict[str, float]]:
    """Measure the fraction of all cores that processes other than this one and its children use within the context.

    Yields:
        a dict that has the value under "fraction" after the context.
    """
    load = {"fraction": 0.0}
    start, busy, own = time.monotonic(), _busy(), _own()
    yield load
    available = (time.monotonic() - start) * (os.cpu_count() or 1)
    load["fraction"] = max(0.0, (_busy() - busy - (_own() - own)) / available)


def _busy() -> float:
    """Seconds of work of all cores together since the start of the machine; 0 if the system does not count them."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq = map(int, stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    match = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.M) if info.exists() else None
    return " ".join((match[1] if match else platform.processor() or platform.machine()).split())


def gpu_names(device: str) -> list[str]:
    """The names of the GPUs among the torch devices, as `runtime.devices` takes them."""
    from ovseg.engine.runtime import devices

    gpus = [name for name in devices(device) if name.startswith("cuda")]
    if not gpus:
        return []
    import torch

    return [torch.cuda.get_device_name(name) for name in gpus]


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
