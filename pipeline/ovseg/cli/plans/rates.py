"""How fast each kind of work goes: rates.json beside this file, every rate with where it is from; no rate is made up.

A rate that was measured or stated on just this device comes first, then an estimate by arithmetic, then what was stated for
another GPU. `gpus_source`, `share_source` and so on in the file say where its other figures are from.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ovseg.core.errors import OvsegError
from ovseg.engine.runtime import Runtime

FILE = Path(__file__).with_name("rates.json")
DEFAULT_GPU, CPU = "a100", "cpu"
ON_CPU = ("draw", "convert", "index", "nouns", "read masks", "select", "shards", "report")  # whatever GPUs there are


@dataclass(frozen=True)
class Machine:
    """What a plan is for.

    Attributes:
        cores: of the CPU, as many as `OVSEG_WORKERS`.
        gpus: how many; 0 runs everything on the CPU.
        gpu: its name in rates.json, or what it is called where it is not there; "cpu" for none.
        why: who says so, in a few words.
    """

    cores: int
    gpus: int = 0
    gpu: str = CPU
    why: str = ""


@dataclass(frozen=True)
class Rate:
    """Items a second of one core or one GPU, and where that is from."""

    per_second: float
    source: str


@cache
def facts() -> dict[str, Any]:
    """What rates.json holds."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def machine(runtime: Runtime, gpu: str | None, gpus: int | None, *, small: bool) -> Machine:
    """What a plan is for: what is asked for, else the GPUs of this machine, else its CPU if the run is small, else one A100.

    Args:
        runtime: devices and workers of this machine.
        gpu: a name in rates.json, or "cpu"; None for what there is.
        gpus: how many; None for all there are, or one.
        small: a CPU is enough (the demo).

    Raises:
        OvsegError: no such GPU.
    """
    known = [*facts()["gpus"], CPU]
    if gpu is not None and gpu.lower() not in known:
        raise OvsegError(f"--gpu {gpu!r} is not known: {', '.join(known)}")
    here = [device for device in runtime.devices if device.startswith("cuda")]
    if gpu is not None:
        return _machine(runtime.workers, gpus or 1, gpu.lower(), "as asked for")
    if here:
        return _machine(runtime.workers, gpus or len(here), _name(here[0]), "of this machine")
    if small and gpus is None:
        return _machine(runtime.workers, 0, CPU, "of this machine")
    return _machine(runtime.workers, gpus or 1, DEFAULT_GPU, "assumed, there is none here; --gpu takes another")


def rate(work: str, of: str | None, on: Machine, precision: str = "bf16", scale: float = 1.0) -> Rate | None:
    """How fast one core, or one GPU, does some work; None if nobody knows.

    Args:
        work: see `rates` in rates.json.
        of: the data set or the model; None if it is not one of those in the file.
        on: the machine.
        precision: of the model; "fp32" has no estimate.
        scale: arithmetic beside that of the image size that was counted.
    """
    rows = [row for row in facts()["rates"] if row["work"] == work and row["of"] in (of, "any")]
    rows = [row for row in rows if row.get("precision", precision) == precision]
    if on.gpu == CPU or work in ON_CPU:
        return _first(rows, CPU)
    return _first(rows, on.gpu) or _estimate(work, of, on.gpu, precision, scale) or _first(rows, "gpu")


def clip_of(name: str) -> str | None:
    """A CLIP of params.yaml by its name in rates.json; None if it is not there."""
    if name == "local-dir:data/demo/clip":
        return "demo"
    plain = name.removesuffix("-quickgelu")
    return plain if plain in facts()["models"] else None


def network_of(backbone: str, init: Path | None) -> str | None:
    """A proposal network of params.yaml by its name in rates.json; None if it is not there."""
    if init == Path("data/demo/proposal_network") or backbone in ("resnet10t", "resnet18"):
        return "demo"
    return next((name for name in facts()["networks"] if name in backbone), None)


def _machine(cores: int, gpus: int, gpu: str, why: str) -> Machine:
    return Machine(cores, 0 if gpu == CPU else gpus, gpu, why)


def _name(device: str) -> str:
    import torch

    called = torch.cuda.get_device_name(device).lower()
    return next((name for name in facts()["gpus"] if re.search(rf"\b{name}\b", called)), called)


def _first(rows: list[dict[str, Any]], on: str) -> Rate | None:
    return next((Rate(row["per_second"] / row.get("cores", 1), row["source"]) for row in rows if row["on"] == on), None)


def _estimate(work: str, of: str | None, gpu: str, precision: str, scale: float) -> Rate | None:
    """Arithmetic over a share of the GPU's peak."""
    found = facts()
    passes, model = found["passes"].get(work), {**found["models"], **found["networks"]}.get(of, {})
    if passes is None or gpu not in found["gpus"] or precision != "bf16" or "gflop" not in model:
        return None
    gflop, peak = passes * model["gflop"] * scale, found["gpus"][gpu]["tflops"]
    said = f"estimated: {gflop:,.0f} GFLOP each; {found['share']:.0%}, which is assumed, of {peak} TFLOP/s"
    return Rate(found["share"] * peak * 1e3 / gflop, said)
