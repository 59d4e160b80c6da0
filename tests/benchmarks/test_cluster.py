"""The benchmark of a cluster: workers of different nodes keep to different cores, and starting is not counted."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import cluster
from benchmarks.results import Measurement


def test_each_owner_has_a_core_of_its_own_as_long_as_there_are_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread has its own affinity, as a process has; the process id tells owners apart."""
    cores = os.sched_getaffinity(0)

    def core_of(owner: int) -> set[int]:
        monkeypatch.setattr(os, "getpid", lambda: owner)
        cluster.keep_to_a_core(tmp_path)
        return os.sched_getaffinity(0)

    def in_a_thread(owner: int) -> set[int]:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(core_of, owner).result()

    taken = [in_a_thread(owner) for owner in range(len(cores))]
    assert all(len(core) == 1 for core in taken) and set().union(*taken) == cores
    assert in_a_thread(0) == taken[0]  # its second process
    assert in_a_thread(len(cores)) == cores  # there is no core left
    assert os.sched_getaffinity(0) == cores


def test_the_clock_starts_when_each_worker_has_ended_a_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six units of two workers that need nine seconds to start, and two for a unit."""
    times = iter([11.0, 11.0, 13.0, 13.0, 15.0, 15.0])
    monkeypatch.setattr("time.sleep", lambda _: None)

    def ends(workers: int, folder: Path) -> Iterator[str]:
        assert workers == 2 and (folder / "cores").is_dir()
        monkeypatch.setattr("time.perf_counter", lambda: next(times))
        yield from "abcdef"

    measurements: dict[str, list[Measurement]] = defaultdict(list)
    cluster.measure(measurements, "Ray", ends, 2, "abcdef", iter([tmp_path / "0"]))
    assert measurements["Ray, 2"][0].rate == 64 * 4 / 4


def test_the_clock_starts_when_a_worker_that_joined_late_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen units of two seconds: the second worker needs eight seconds more to start, in which the first ends four."""
    times = iter([2.0, 4.0, 6.0, 8.0, *(float(end) for end in range(10, 22, 2) for _ in "ab")])
    monkeypatch.setattr("time.sleep", lambda _: None)

    def ends(_: int, __: Path) -> Iterator[str]:
        monkeypatch.setattr("time.perf_counter", lambda: next(times))
        yield from "abcdefghijklmnop"

    measurements: dict[str, list[Measurement]] = defaultdict(list)
    cluster.measure(measurements, "Ray", ends, 2, "abcdefghijklmnop", iter([tmp_path / "0"]))
    assert measurements["Ray, 2"][0].rate == 64 * 12 / 12
