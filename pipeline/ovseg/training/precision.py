"""The precision that modules are trained in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ovseg.core.arithmetic import autocast
from ovseg.core.options import Precision


@contextmanager
def autocast_context(device: torch.device, precision: Precision) -> Iterator[None]:
    """Set the precision of forward and backward, and on CPUs the attention kernel whose backward is faster.

    On CPUs the backward of the fused `scaled_dot_product_attention` is slow: a step of a small ViT (128 crops of 65 tokens)
    takes 0.57 s with it and 0.40 s with plain matrix products; at ViT-B/16's shapes both are alike (benchmarks/train.py). On
    GPUs the fused kernels are the fast ones.

    Args:
        device: the torch device of the computation.
        precision: "fp32", or "bf16" (autocast) if the device has units for it.
    """
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with attention, autocast(precision, device):
        yield
