"""Forward passes of one shape, so that the embedding of a crop or a text depends on nothing but itself.

A processor's library chooses its kernels by the shape of a batch, and another kernel rounds otherwise: one crop in a batch of
16 and in one of 64 has embeddings that differ by 1e-7 in float32, and by 1e-3 in bfloat16, which is enough to change which
mask a noun is paired with. So every forward pass has the same number of rows, and the last one is filled with zeros.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CROPS_PER_PASS, CROPS_PER_PASS_OF_GPU = 32, 128  # an H100 encodes a third more crops a second in passes of 128
TEXTS_PER_PASS = 32
TOKENS_STEP = 2
"""Lengths of texts are rounded up to a multiple of this, so that a text's shape depends on the text alone."""


def crops_per_pass(device: torch.device) -> int:
    """Return the number of crops of each forward pass on a device."""
    return CROPS_PER_PASS if device.type == "cpu" else CROPS_PER_PASS_OF_GPU


def whole_passes(batch_size: int, device: torch.device) -> int:
    """Round a number of crops up to whole forward passes on a device."""
    rows = crops_per_pass(device)
    return -(-batch_size // rows) * rows


def in_passes(encode: Callable[..., Tensor], rows: int, *inputs: Tensor) -> Tensor:
    """Call an encoder with batches of exactly `rows` rows.

    Args:
        encode: function from a batch of each input, `[rows, ...]`, to embeddings `[rows, D]`.
        rows: number of rows of each batch.
        inputs: tensors `[N, ...]`, N at least 1.

    Returns:
        embeddings `[N, D]`.
    """
    embeddings = []
    for start in range(0, len(inputs[0]), rows):
        parts = [tensor[start : start + rows] for tensor in inputs]
        number = len(parts[0])
        if number < rows:
            parts = [torch.cat([part, part.new_zeros(rows - number, *part.shape[1:])]) for part in parts]
        embeddings.append(encode(*parts)[:number])
    return torch.cat(embeddings)


def text_lengths(tokens: Tensor) -> Tensor:
    """Return the number of tokens of each text that are encoded: up to its end, rounded up to a multiple of `TOKENS_STEP`.

    Args:
        tokens: tokens of a causal text tower, int64 `[N, context]`; the end of a text is the token with the highest number.

    Returns:
        int64 `[N]`, at most the context.
    """
    ends = tokens.argmax(dim=-1) + 1
    return ((ends + TOKENS_STEP - 1) // TOKENS_STEP * TOKENS_STEP).clamp(max=tokens.shape[1])
