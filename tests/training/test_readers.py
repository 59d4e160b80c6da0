"""Processes that read samples leave the cores to the training, and Ctrl-C to it alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ovseg.training.readers import reader_start


class Process(Dataset[tuple[int, bool]]):
    """The niceness of the process that reads an item, and whether it ignores Ctrl-C."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> tuple[int, bool]:
        return os.nice(0), signal.getsignal(signal.SIGINT) == signal.SIG_IGN


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a terminal: a shell starts what runs in the background with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("gpu", "expected"), [(False, 10), (True, 0)])
def test_a_reader_ignores_interrupts_and_without_a_gpu_gives_way_to_the_training(
    gpu: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    loader = DataLoader(Process(), num_workers=2, batch_size=None, worker_init_fn=reader_start())
    before = os.nice(0)
    assert [tuple(item) for item in loader] == [(min(19, before + expected), True)] * 2
    assert signal.getsignal(signal.SIGINT) != signal.SIG_IGN
