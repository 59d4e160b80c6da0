"""Float32 on GPUs as on processors."""

from __future__ import annotations

import torch


def full_float32() -> None:
    """Let convolutions of this process compute in full float32, as matrix products do.

    By default torch rounds their inputs to 10 bits of mantissa on GPUs (TF32): on an H100 one noun in a hundred then got a mask
    of the proposal network that differs from the CPU's, and the network was no faster (`python -m benchmarks gpu`).
    """
    torch.backends.cudnn.allow_tf32 = False
