"""The arithmetic of this machine's devices: full float32 on GPUs, and bfloat16 where there are units for it."""

from __future__ import annotations

import logging
import time
from functools import cache
from typing import Any

import torch

from ovseg.core.options import Precision

log = logging.getLogger("ovseg")


def full_float32() -> None:
    """Let convolutions of this process compute in full float32, as matrix products do.

    By default torch rounds their inputs to 10 bits of mantissa on GPUs (TF32): on an H100 one noun in a hundred then got a mask
    of the proposal network that differs from the CPU's, and the network was no faster (`python -m benchmarks gpu`).
    """
    torch.backends.cudnn.allow_tf32 = False


def data_type(precision: Precision, device: str | torch.device) -> torch.dtype:
    """The data type that a device computes in: bfloat16 if it is asked for and the device has units for it, else float32.

    Those have none: x86 processors without AVX-512, where torch multiplies in bfloat16 8 to 10 times as slowly as in float32
    (docs/speed.md), and GPUs of NVIDIA before Ampere (T4, RTX 20xx). The log says once that float32 takes its place.
    """
    return torch.bfloat16 if precision == "bf16" and _has_bfloat16(torch.device(device)) else torch.float32


def autocast(precision: Precision, device: str | torch.device) -> torch.autocast:
    """The context in which the operations of a device compute in its `data_type`, where they can; weights stay as they are."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=data_type(precision, device) == torch.bfloat16)


def matrix_peak(device: str | torch.device) -> float:
    """Measure the peak of a device: the most arithmetic operations a second that one of ten large products of matrices reaches.

    The matrices are in bfloat16 where the device has units for it, else in float32. It takes a moment on a GPU, and about a
    second on one core of a CPU without such units. The random numbers of this process stay as they are.

    Args:
        device: a CPU, of which the threads of this process count, or a GPU.

    Returns:
        operations a second, where one multiplication with its addition is two.
    """
    place = torch.device(device)
    side, generator = 8192 if place.type == "cuda" else 1024, torch.Generator(place).manual_seed(0)
    dtype = data_type("bf16", place)
    a, b = (torch.randn(side, side, generator=generator, device=place, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(10):
        _wait(place)
        start = time.perf_counter()
        a @ b
        _wait(place)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@cache
def _has_bfloat16(device: torch.device) -> bool:
    onednn: Any = torch.backends.mkldnn
    found, name = True, str(device)
    if device.type == "cpu":
        found, name = bool(onednn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()), "this processor"
    elif device.type == "cuda":
        found = bool(torch.version.hip) or torch.cuda.get_device_capability(device)[0] >= 8
    if not found:
        log.info("bf16: %s has no units for it, and computes in fp32 instead", name)
    return found
