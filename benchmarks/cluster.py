"""Units of `score` on a Ray cluster of one and two nodes, beside processes of this machine and beside Ray Data.

    python -m benchmarks cluster        about 8 minutes on two cores; needs Ray: pip install -e '.[ray]'

A node is a raylet on this machine with one CPU; its workers keep to a core that no other node has, as do processes. The
units have 64 COCO images with panoptic masks, the CLIP is the demo's. Starting is not counted: the clock starts when a quarter
of the units has ended, since a worker on a new node begins several units later than the first. The ratio of processes is what
two cores of this machine give at all.

    processes   `--executor local --workers 1`, and 2
    Ray         `--executor ray`
    Ray Data    map_batches twice: images are decoded and cut by tasks with a part of each node's CPU, ahead of an encoder with
                the rest. It writes no tables, and nothing of it survives a kill

Workers of Ray have the priority of processes, which by Ray's default they do not. Other load is that of the second before each
measurement: Ray's processes are no children of this one.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import inputs
from benchmarks.results import Measurement, Options, Result, Row, Target, medians, other_load
from benchmarks.score import Tables, make_tables
from ovseg.core import crops, masks
from ovseg.core.image_records import read_image_records
from ovseg.core.images import ImageArray
from ovseg.core.options import ClipOptions, CropOptions, ScoreOptions
from ovseg.engine.executors import EXECUTORS
from ovseg.engine.ray_connection import connect
from ovseg.engine.runtime import Runtime
from ovseg.engine.units import Task, unit_names
from ovseg.mining.index import IMAGES_PER_PART
from ovseg.mining.matching import rank
from ovseg.mining.score_unit import ScoreTaskFactory, rows_by_image
from ovseg.mining.scorer import load_scorer
from ovseg.mining.texts import encode_nouns, read_texts

UNITS, ROUNDS, WORKERS = 24, 2, (1, 2)
CLIP = ClipOptions(model=f"local-dir:{inputs.ROOT / 'data' / 'demo' / 'clip'}")
SCORE = ScoreOptions(templates="single", precision="bf16")
CUT = 0.4  # CPUs of a task of Ray Data that cuts; were it as many as those of an encoder, Ray would make one of both
MEMORY = 256 * 2**20  # of Ray's object store on a node, in bytes

Ends = Callable[[int, Path], Iterator[str]]
"""(number of workers, empty folder) -> each unit when it ends."""


def run(options: Options) -> Result:
    data = inputs.images(options.folder / "data", IMAGES_PER_PART, copies=3 if options.smoke else UNITS)
    runtime = Runtime(workers=1, work=options.folder / "work")
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    tables = make_tables(data, options.folder, runtime, max_proposals=1 if options.smoke else 100)
    texts = options.folder / "texts"
    encode_nouns(tables.nouns, tables.proposals, texts, runtime, CLIP, SCORE.templates, SCORE.precision)
    scored = Scored(tables, texts, list(unit_names(tables.index)))
    measurements: dict[str, list[Measurement]] = defaultdict(list)
    folders = (options.folder / str(number) for number in count())
    for _ in range(1 if options.smoke else ROUNDS):
        for workers in WORKERS:
            measure(measurements, "processes", scored.by("local"), workers, scored.units, folders)
        with ray_cluster() as add_node:
            for workers in WORKERS:
                if workers > 1:
                    add_node(num_cpus=1, object_store_memory=MEMORY)
                measure(measurements, "Ray", scored.by("ray"), workers, scored.units, folders)
                measure(measurements, "Ray Data", scored.by_ray_data, workers, scored.units, folders)
    return result(data, len(scored.units), measurements)


def result(data: inputs.Images, units: int, measurements: dict[str, list[Measurement]]) -> Result:
    """The table of images per second, by executor and number of workers."""
    rates, (one, two) = medians(measurements), WORKERS
    rows: list[Row] = [
        {
            "executor": name,
            "images/s, 1": rates[f"{name}, {one}"],
            "images/s, 2": rates[f"{name}, {two}"],
            "ratio": rates[f"{name}, {two}"] / rates[f"{name}, {one}"],
        }
        for name in dict.fromkeys(key.rpartition(", ")[0] for key in measurements)
    ]
    targets = [
        Target("Ray: two nodes / one", rates[f"Ray, {two}"] / rates[f"Ray, {one}"], 1.8),
        Target("two nodes of Ray / two processes", rates[f"Ray, {two}"] / rates[f"processes, {two}"], 0.95),
    ]
    setup: dict[str, str | float] = {"units": units, "images": data.number, "photographs": str(data.real).lower()}
    return Result(setup, rows, targets, dict(measurements))


def measure(
    measurements: dict[str, list[Measurement]],
    name: str,
    ends: Ends,
    workers: int,
    units: Sequence[str],
    folders: Iterator[Path],
) -> None:
    """Do all units once, and note how many images a second were scored after the first quarter of the units."""
    folder = next(folders)
    (folder / "cores").mkdir(parents=True)
    with other_load() as load:
        time.sleep(1)
    affinity = os.sched_getaffinity(0)
    try:
        times = [time.perf_counter() for _ in ends(workers, folder)]
    finally:
        os.sched_setaffinity(0, affinity)
    assert len(times) == len(units), (name, workers, len(times))
    skipped = max(workers, len(units) // 4)
    rate = IMAGES_PER_PART * (len(times) - skipped) / (times[-1] - times[skipped - 1])
    measurements[f"{name}, {workers}"].append(Measurement(rate, load["fraction"]))


@contextmanager
def ray_cluster() -> Iterator[Callable[..., object]]:
    """Start a Ray cluster of one node with one CPU, connect this process, and give a function that adds a node."""
    os.environ |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # Ray's is 15: its workers would get what is left on a machine that is not idle
    }
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (inputs.ROOT, inputs.ROOT / "pipeline")))  # for workers
    try:
        import ray
        from ray.cluster_utils import Cluster
    except ImportError:
        raise SystemExit("this benchmark needs Ray: pip install -e '.[ray]'") from None
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    os.environ["RAY_ADDRESS"] = cluster.address
    connect()
    try:
        yield cluster.add_node
    finally:
        ray.shutdown()
        cluster.shutdown()
        del os.environ["RAY_ADDRESS"]


def keep_to_a_core(cores: Path) -> None:
    """Bind this process to a core: that of its node in a Ray cluster, otherwise one that no other process has.

    Args:
        cores: a folder with a file for each core that is taken.
    """
    ray = sys.modules.get("ray")
    owner = ray.get_runtime_context().get_node_id() if ray and ray.is_initialized() else str(os.getpid())
    claim = cores / f"{owner}.{os.getpid()}.{time.monotonic_ns()}"
    claim.write_text(owner, encoding="utf-8")
    for core in sorted(os.sched_getaffinity(0)):
        taken = cores / f"core{core}"
        try:
            os.link(claim, taken)
        except FileExistsError:
            if taken.read_text(encoding="utf-8") != owner:
                continue
        os.sched_setaffinity(0, {core})
        return


@dataclass(frozen=True)
class OnOneCore:
    """The task factory of `score`, in a process that keeps to one core."""

    factory: ScoreTaskFactory
    cores: Path

    def __call__(self, device: str) -> Task:
        keep_to_a_core(self.cores)
        torch.set_num_threads(1)
        return self.factory(device)


@dataclass(frozen=True)
class Scored:
    """The units that are scored, the tables that they read, and the embeddings of their nouns."""

    tables: Tables
    texts: Path
    units: Sequence[str]

    def by(self, executor: str) -> Ends:
        """Score by one of the executors."""

        def ends(workers: int, folder: Path) -> Iterator[str]:
            factory = OnOneCore(self._factory(), folder / "cores")
            yield from (unit for unit, _ in EXECUTORS[executor](factory, self.units, folder, ("cpu",) * workers, None))

        return ends

    def by_ray_data(self, workers: int, folder: Path) -> Iterator[str]:
        """Do the same by Ray Data: a row for each crop, and a block for each unit."""
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        units = ray.data.from_items([{"unit": unit} for unit in self.units], override_num_blocks=len(self.units))
        clip = load_scorer(CLIP, SCORE, "cpu")
        color = crops.fill_color(CropOptions().fill, clip.mean.tolist())
        cut_one = partial(cut_unit, self.tables, clip.size, color, folder / "cores")
        cut = units.map_batches(cut_one, batch_size=1, num_cpus=CUT)
        arguments: dict[str, Any] = {"fn_constructor_args": (self.tables, self.texts, folder / "cores")}
        pool = ray.data.ActorPoolStrategy(size=workers)
        ranked = cut.map_batches(Ranker, **arguments, batch_size=None, num_cpus=1 - CUT, compute=pool)
        for batch in ranked.iter_batches(batch_size=None, prefetch_batches=0):
            yield from batch["unit"].tolist()

    def _factory(self) -> ScoreTaskFactory:
        return ScoreTaskFactory(
            index=self.tables.index,
            images=self.tables.images,
            nouns=self.tables.nouns,
            proposals=self.tables.proposals,
            texts_folder=self.texts,
            fingerprint="benchmark",
            clip=CLIP,
            options=SCORE,
            crop=CropOptions(),
            workers=1,
            batch_size=64,
            metadata={},
        )


Batch = dict[str, Any]  # columns of numpy


def cut_unit(tables: Tables, size: int, color: ImageArray | None, cores: Path, batch: Batch) -> Batch:
    """Decode the images of one unit and cut out their regions: `crop` `[N, 3, S, S]`, `image` `[N]`, and `unit` `[N]`."""
    keep_to_a_core(cores)
    (unit,) = batch["unit"].tolist()
    regions = rows_by_image(tables.proposals / f"{unit}.parquet", "proposals")
    cut, image_ids = [], []
    for image in read_image_records(tables.index / f"{unit}.parquet", tables.images):
        for row in regions[image.image_id]:
            mask = masks.decode(row["rle"], row["height"], row["width"])
            crop, _ = crops.crop_region(image.pixels, mask, tuple(row["box"]), size, color, antialias=True)
            cut.append(crop.numpy())
            image_ids.append(image.image_id)
    return {"crop": np.stack(cut), "image": np.array(image_ids), "unit": np.array([unit] * len(cut))}


class Ranker:
    """Encodes the crops of a unit, and ranks them for the nouns of their images."""

    def __init__(self, tables: Tables, texts: Path, cores: Path) -> None:
        keep_to_a_core(cores)
        torch.set_num_threads(1)
        self.clip, self.tables = load_scorer(CLIP, SCORE, "cpu"), tables
        self.embeddings = read_texts(texts)

    def __call__(self, batch: Batch) -> Batch:
        """Return the unit, and how many candidates it has."""
        unit = str(batch["unit"][0])
        vectors = self.clip.encode_crops(torch.tensor(batch["crop"]))
        nouns = rows_by_image(self.tables.nouns / f"{unit}.parquet", "nouns")
        images = batch["image"]
        candidates = sum(self._rank(nouns[i], vectors[images == i]) for i in np.unique(images).tolist() if nouns[i])
        return {"unit": np.array([unit]), "candidates": np.array([candidates])}

    def _rank(self, nouns: Iterable[dict[str, Any]], vectors: torch.Tensor) -> int:
        texts = torch.stack([self.embeddings[row["noun"]] for row in nouns])
        return sum(len(matches) for matches in rank(texts, vectors, SCORE.top_k))
