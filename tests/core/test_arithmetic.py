"""bfloat16 is computed where the device has units for it; one without them takes float32, and the log says so once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ovseg.clip.load import load_clip
from ovseg.core import arithmetic
from ovseg.core.arithmetic import data_type, matrix_peak
from ovseg.training.precision import autocast_context

CPU = torch.device("cpu")
SAID = "bf16: {} has no units for it, and computes in fp32 instead"


@pytest.fixture
def no_cache() -> Iterator[None]:
    """What was found out about a device is forgotten, before and after."""
    arithmetic._has_bfloat16.cache_clear()
    yield
    arithmetic._has_bfloat16.cache_clear()


@pytest.fixture(params=[True, False], ids=["with units", "without units"])
def units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(arithmetic, "_has_bfloat16", lambda _: request.param)
    return bool(request.param)


def test_bf16_is_float32_on_a_device_without_units(units: bool) -> None:
    assert data_type("bf16", CPU) == data_type("bf16", "cpu") == (torch.bfloat16 if units else torch.float32)
    assert data_type("fp32", "cpu") == data_type("fp32", "cuda") == torch.float32


@pytest.mark.parametrize(
    ("capability", "hip", "found"),
    [((7, 5), None, False), ((8, 0), None, True), ((9, 0), None, True), ((7, 0), "6.2", True)],
    ids=["Turing", "Ampere", "Hopper", "ROCm"],
)
def test_gpus_before_ampere_have_no_units(
    capability: tuple[int, int],
    hip: str | None,
    found: bool,
    no_cache: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    with caplog.at_level(logging.INFO, "ovseg"):
        assert data_type("bf16", "cuda:1") == (torch.bfloat16 if found else torch.float32)
    assert caplog.messages == [SAID.format("cuda:1")] * (not found)


def test_weights_and_trainings_are_of_that_type(units: bool, tiny_clip: Path) -> None:
    clip = load_clip(f"local-dir:{tiny_clip}", precision="bf16")
    assert clip.dtype == clip.model.state_dict()["text_projection"].dtype == data_type("bf16", CPU)
    with autocast_context(CPU, "bf16"):
        assert torch.is_autocast_enabled("cpu") == units


def test_the_log_says_once_that_there_are_no_units(
    no_cache: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with caplog.at_level(logging.INFO, "ovseg"):
        assert [data_type("bf16", "cpu") for _ in range(3)] == [torch.float32] * 3
    assert caplog.messages == [SAID.format("this processor")]


def test_measuring_the_peak_leaves_the_random_numbers_of_the_process_as_they_are() -> None:
    before = torch.get_rng_state()
    assert matrix_peak("cpu") > 1e8  # operations a second: any processor of today has more
    assert torch.equal(torch.get_rng_state(), before)
