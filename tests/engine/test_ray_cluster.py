"""Mining on a real Ray cluster of two nodes with one CPU each: what is lost is done again, and nothing else."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ovseg.core.errors import OvsegError
from ovseg.core.options import ClipOptions, CropOptions, ScoreOptions
from ovseg.engine.fingerprint import StepKey
from ovseg.engine.ray_connection import connect
from ovseg.engine.ray_worker import Shared, paths_in
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.units import Counts, Task
from tests.conftest import ROOT, Mined, digests

UNITS = [f"{i:05d}" for i in range(8)]
KEY = StepKey("step", "k", {})


@dataclass(frozen=True)
class NotedTaskFactory:
    """A task that notes every start of a unit in a folder, with its process, and takes its time.

    Attributes:
        notes: the folder, relative to that of the command.
        seconds: how long a unit takes.
        stuck: the unit that takes for ever when it is done for the first time.
    """

    notes: Path
    seconds: float
    stuck: str = ""

    def __call__(self, device: str) -> Task:
        return self.task

    def task(self, unit: str, folder: Path) -> Counts:
        first = not self.starts()[unit]
        (self.notes / f"{unit}.{os.getpid()}.{time.monotonic_ns()}").touch()
        time.sleep(600 if first and unit == self.stuck else self.seconds)
        (folder / f"{unit}.txt").write_text(unit)
        return {"things": 1}

    def starts(self) -> Counter[str]:
        """How often each unit was started."""
        return Counter(path.name.split(".")[0] for path in self.notes.iterdir())

    def workers(self) -> set[str]:
        """The processes that units were started in."""
        return {path.name.split(".")[1] for path in self.notes.iterdir()}


@dataclass(frozen=True)
class GpuTaskFactory:
    """A task that notes the device that it was made for and the GPUs that Ray gives it, until another process has done so, too.

    Attributes:
        notes: a folder.
    """

    notes: Path

    def __call__(self, device: str) -> Task:
        def task(unit: str, folder: Path) -> Counts:
            import ray

            note = [device, *map(str, ray.get_gpu_ids()), "visible", os.environ["CUDA_VISIBLE_DEVICES"]]
            (self.notes / f"{unit}.{os.getpid()}").write_text(" ".join(note), encoding="utf-8")
            deadline = time.monotonic() + 120
            while len({path.suffix for path in self.notes.iterdir()}) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
            return {"things": 1}

        return task


class Taken:
    """An actor that does nothing: the CPU it has is not free for workers."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head node with one CPU, as the cluster at RAY_ADDRESS, to which this process is connected."""
    ray: Any = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(ROOT), str(ROOT / "pipeline")]))
    running = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", running.address)
    connect()
    try:
        yield running
    finally:
        ray.shutdown()
        running.shutdown()


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    """Runs a step while the test changes the cluster; Ray wants the changes to come from the main thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def wait_for(condition: Callable[[], object], step: Future[Any] | None = None) -> None:
    """Wait until something has happened; a step that ends before is an error."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for two minutes"
        assert step is None or not step.done(), step and step.result()
        time.sleep(0.05)


def finished(folder: Path) -> int:
    return len(list(folder.rglob("*.done.json")))


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, relative to the current one: workers must find it all the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    return Path("notes")


@pytest.mark.slow
def test_nodes_come_and_go(
    cluster: Any, background: ThreadPoolExecutor, notes: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that is added gets work; the unit of one that is killed is done once more, and no other is."""
    caplog.set_level(logging.INFO, "ovseg")
    factory = NotedTaskFactory(notes, 5)  # on a machine with other work a worker takes many seconds to start
    step = background.submit(run_step, KEY, UNITS, factory, Path("out"), replace(runtime, executor="ray"))
    wait_for(lambda: finished(runtime.work) >= 1, step)
    node = cluster.add_node(num_cpus=1)
    wait_for(lambda: len(factory.workers()) == 2, step)
    cluster.remove_node(node, allow_graceful=False)
    assert step.result() == {"things": len(UNITS)}
    again = {unit: n for unit, n in factory.starts().items() if n > 1}
    assert list(again.values()) == [2] and set(factory.starts()) == set(UNITS)
    assert f"was lost with unit {next(iter(again))} (" in caplog.text and caplog.text.count("done again") == 1


@pytest.mark.slow
def test_a_node_killed_while_scoring_changes_no_byte(
    cluster: Any,
    background: ThreadPoolExecutor,
    mined_units: Mined,
    tiny_clip: Path,
    tmp_path: Path,
    runtime: Runtime,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Scored by one process here, and on two nodes of which one is killed at work: every file is the same.

    The CPU of the head is taken until then, so that the work is at the node that is killed."""
    import ray

    from ovseg.mining.score import score_nouns

    def score(out: Path, executor: str) -> dict[str, int]:
        tables = mined_units.index, mined_units.coco.images, mined_units.nouns, mined_units.proposals
        options = ClipOptions(model=f"local-dir:{tiny_clip}"), ScoreOptions(), CropOptions()
        return score_nouns(*tables, out, replace(runtime, executor=executor, work=out.with_suffix(".work")), *options)

    taken = ray.remote(Taken).options(num_cpus=1).remote()
    ray.get(taken.__ray_ready__.remote())
    node = cluster.add_node(num_cpus=1)
    step = background.submit(score, tmp_path / "cluster", "ray")
    wait_for(lambda: list(tmp_path.glob("cluster.work/score-*/0*.tmp/")), step)  # a unit is at work, and not the texts
    cluster.remove_node(node, allow_graceful=False)
    ray.kill(taken)
    assert step.result() == score(tmp_path / "here", "local")
    assert digests(tmp_path / "cluster") == digests(tmp_path / "here")
    assert "a worker" in caplog.text and "was lost" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("declared", "devices", "seen"),
    [
        (2, ("cuda:0",), [{"cuda 0 visible 0"}, {"cuda 1 visible 1"}]),
        (1, ("cuda", "cuda"), [{"cuda 0 visible 0"}, {"cuda 0 visible 0"}]),
    ],
    ids=["one each", "two on one"],
)
def test_each_worker_of_a_model_has_a_gpu_or_the_share_of_one_that_was_asked_for(
    cluster: Any,
    notes: Path,
    runtime: Runtime,
    declared: int,
    devices: tuple[str, ...],
    seen: list[set[str]],
) -> None:
    """As many workers as a node declares GPUs, or twice as many, though it has more cores.

    The GPUs are only declared: Ray counts and hands them out all the same, and nothing is computed on them.
    """
    cluster.add_node(num_cpus=4, num_gpus=declared)
    on_gpus = replace(runtime, executor="ray", devices=devices)
    assert run_step(KEY, UNITS, GpuTaskFactory(notes), Path("out"), on_gpus, uses_model=True) == {"things": len(UNITS)}
    of_worker: dict[str, set[str]] = {}
    for path in notes.iterdir():
        of_worker.setdefault(path.suffix, set()).add(path.read_text(encoding="utf-8"))
    assert sorted(of_worker.values(), key=sorted) == seen


RUN = """
import sys
from dataclasses import replace
from pathlib import Path
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from test_ray_cluster import KEY, UNITS, NotedTaskFactory
run_step(KEY, UNITS, NotedTaskFactory(Path("notes"), 1), Path("out"), Runtime(executor="ray"))
"""


@pytest.mark.slow
def test_a_killed_driver_continues_where_it_was(cluster: Any, notes: Path, runtime: Runtime) -> None:
    """Only the unit that was at work is done again, and the result is the one of a run that nothing has stopped."""
    factory = NotedTaskFactory(notes, 1)
    with subprocess.Popen([sys.executable, "-c", RUN]) as driver:
        wait_for(lambda: finished(runtime.work) >= 3)
        driver.kill()
    subprocess.run([sys.executable, "-c", RUN], check=True)
    again = [unit for unit, number in factory.starts().items() if number > 1]
    assert len(again) <= 1 and set(factory.starts()) == set(UNITS)
    run_step(KEY, UNITS, factory, Path("here"), replace(runtime, work=Path("work").absolute()))
    assert digests(Path("here")) == digests(Path("out"))


@pytest.mark.slow
def test_nobody_waits_for_a_straggler(
    cluster: Any,
    notes: Path,
    runtime: Runtime,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once nothing else is left, an idle worker starts a unit that takes much longer than the others, and no other."""
    caplog.set_level(logging.INFO, "ovseg")
    monkeypatch.setattr("ovseg.engine.ray_cluster.STRAGGLER_SECONDS", 2.0)
    cluster.add_node(num_cpus=1)
    factory = NotedTaskFactory(notes, 0.2, stuck=UNITS[0])
    assert run_step(KEY, UNITS, factory, Path("out"), replace(runtime, executor="ray")) == {"things": len(UNITS)}
    assert factory.starts() == dict.fromkeys(UNITS, 1) | {UNITS[0]: 2}
    assert f"unit {UNITS[0]} takes long; another worker starts it, too" in caplog.text
    assert sorted(path.stem for path in Path("out").glob("*.txt")) == UNITS


@pytest.mark.slow
def test_what_a_worker_meets(
    cluster: Any, notes: Path, runtime: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A unit that is stuck is done by another worker; a node that does not share a folder ends the run at once."""
    on_ray = replace(runtime, executor="ray")
    stuck = NotedTaskFactory(notes, 0, stuck=UNITS[2])
    assert run_step(KEY, UNITS[:4], stuck, Path("out"), replace(on_ray, unit_timeout=3)) == {"things": 4}
    assert stuck.starts() == dict.fromkeys(UNITS[:4], 1) | {UNITS[2]: 2}
    assert f"with unit {UNITS[2]} (it took longer than the unit timeout of 3 s)" in caplog.text
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount file systems, so a node without the folder cannot be made")
    hide = f"mount -t tmpfs none {tmp_path} && exec ray start --block --num-cpus 4 --address {cluster.address}"
    nodes = len(cluster.list_all_nodes())
    environment = os.environ | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    address_file = Path(
        tempfile.gettempdir(), "ray", "ray_current_cluster"
    )  # which `ray start` leaves for later commands
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", hide], stdout=subprocess.DEVNULL, cwd="/", env=environment
    ) as node:
        try:
            ray: Any = pytest.importorskip("ray")
            wait_for(lambda: sum(found["Alive"] for found in ray.nodes()) > nodes)
            started = time.monotonic()
            with pytest.raises(OvsegError, match=r"^node [\d.]+ of the Ray cluster does not share .*: mount it there"):
                run_step(replace(KEY, fingerprint="other"), UNITS, NotedTaskFactory(notes, 600), Path("other"), on_ray)
            assert time.monotonic() - started < 60
        finally:
            node.terminate()
            address_file.unlink(missing_ok=True)


def test_a_cluster_that_does_not_answer_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    """With its address and what to do; Ray itself tries for minutes."""
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        for value in (address, f"ray://{address}"):
            monkeypatch.setenv("RAY_ADDRESS", value)
            with pytest.raises(
                OvsegError, match=rf"^no Ray cluster answers at RAY_ADDRESS={value} \(.*ray start --head"
            ):
                run_step(KEY, UNITS, NotedTaskFactory(tmp_path, 0), tmp_path / "out", replace(runtime, executor="ray"))
        monkeypatch.setenv("RAY_ADDRESS", "host:port")
        with pytest.raises(OvsegError, match="is no address HOST:PORT"):
            connect()


HEAD = """
import sys
from ray.cluster_utils import Cluster
running = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print(running.address, flush=True)
sys.stdin.read()
running.shutdown()
"""
TOKEN = "0123456789abcdef" * 3


def at_home(folder: Path) -> dict[str, str]:
    """The variables of a process for which that folder is the user's home, and which is told nothing of Ray."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return others | {"HOME": str(folder), "PYTHONPATH": str(ROOT / "pipeline")}


@pytest.fixture
def guarded_cluster(tmp_path: Path) -> Iterator[str]:
    """The address of a cluster in a process of its own that asks for `TOKEN`; a process keeps the mode of its first cluster."""
    pytest.importorskip("ray", reason="Ray is not installed")
    environment = at_home(tmp_path) | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    with head:
        assert head.stdout is not None
        yield head.stdout.readline().strip()
        head.communicate(timeout=120)  # the end of its input ends it, and its cluster


@pytest.mark.slow
def test_a_run_without_the_token_of_a_cluster_ends_in_one_sentence(
    guarded_cluster: str, mined: Mined, tmp_path: Path
) -> None:
    """It says what to set, and with that the same command makes the table; with no mode, no token or another one."""
    out, masks = tmp_path / "proposals", str(mined.coco.instances)
    command = [sys.executable, "-m", "ovseg.cli.mine", "propose", "--executor", "ray", "--index", str(mined.index)]
    command += ["--images", str(mined.coco.images), "--proposals", f"ground_truth:{masks}", "--annotations", masks]
    command += ["--out", str(out)]

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        environment = at_home(tmp_path) | {"RAY_ADDRESS": guarded_cluster} | variables
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    wrong: dict[str, str]
    for wrong in ({}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN[::-1]}):
        done = run(**wrong)
        sentence = done.stderr.splitlines()[-1]
        assert done.returncode == 1 and "Traceback" not in done.stderr and not out.exists()
        assert f"RAY_ADDRESS={guarded_cluster} asks for a token" in sentence and "set RAY_AUTH_MODE=token" in sentence
    done = run(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert digests(out) == digests(mined.proposals)


def test_a_worker_checks_what_its_node_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the command, the scratch folder, what the task reads, and the version; then it works in the first."""
    for name in ("here", "scratch"):
        (tmp_path / name).mkdir()
    (tmp_path / "scratch" / "shared.tmp").write_text("token")
    monkeypatch.chdir(tmp_path)
    from ovseg import __version__

    good = Shared(tmp_path / "here", tmp_path / "scratch", "token", (Path("../scratch"),), __version__)
    good.enter("10.0.0.1")
    assert Path.cwd() == tmp_path / "here"
    wrong = {
        "here": tmp_path / "nowhere",
        "scratch": tmp_path / "empty",
        "token": "of another folder with this name",
        "paths": (Path("images"),),
    }
    for field, value in wrong.items():
        with pytest.raises(OvsegError, match=r"^node 10\.0\.0\.1 of the Ray cluster does not share .*: mount it there"):
            replace(good, **{field: value}).enter("10.0.0.1")  # type: ignore[arg-type]
    with pytest.raises(OvsegError, match=r"has ovseg .*, and the run was started by 0\.0: install the same"):
        replace(good, version="0.0").enter("10.0.0.1")


def test_the_paths_of_a_task_are_found_in_its_options(tmp_path: Path) -> None:
    factory = NotedTaskFactory(Path("notes"), 0)
    assert list(paths_in({"a": [factory, (tmp_path, 3)], "b": ClipOptions(model="x")})) == [Path("notes"), tmp_path]
