"""Preparing items in threads and encoding them in full batches, without more of them in memory than are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], max_pending: int
) -> Iterator[Result]:
    """Do as `pool.map`, but hold at most `max_pending` results at a time; they are in the order of the items."""
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= max_pending:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def encode_in_batches(
    encode: Callable[[Tensor], Tensor], chunks: Iterable[Tensor], batch_size: int
) -> Iterator[Tensor]:
    """Encode chunks of any length in full batches; only the last batch may be smaller.

    Args:
        encode: function from `[N, ...]` to features `[N, D]`, for N up to `batch_size`.
        chunks: tensors `[k, ...]`; k may be 0 and differ.
        batch_size: N of each call of `encode`.

    Returns:
        the features `[k, D]` of each chunk, in order.
    """
    sizes: deque[int] = deque()
    waiting: list[Tensor] = []
    features: list[Tensor] = []
    num_waiting = 0
    for chunk in chunks:
        sizes.append(len(chunk))
        waiting.append(chunk)
        num_waiting += len(chunk)
        while num_waiting >= batch_size:
            joined = torch.cat(waiting)
            features.append(encode(joined[:batch_size]))
            waiting, num_waiting = [joined[batch_size:]], num_waiting - batch_size
            yield from _complete_chunks(features, sizes)
    if num_waiting:
        features.append(encode(torch.cat(waiting)))
    yield from _complete_chunks(features, sizes)


def _complete_chunks(features: list[Tensor], sizes: deque[int]) -> Iterator[Tensor]:
    """Take from the features those of the first chunks that are complete; both arguments keep what remains."""
    ready = torch.cat(features) if features else torch.zeros(0)
    while sizes and sizes[0] <= len(ready):
        size = sizes.popleft()
        yield ready[:size]
        ready = ready[size:]
    features[:] = [ready] if len(ready) else []
