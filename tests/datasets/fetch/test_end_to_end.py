"""From archives as they are published to labels, tables of a benchmark, and shards; however often it is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from ovseg.core import tables
from ovseg.core.options import (
    ClipOptions,
    CropOptions,
    IndexOptions,
    NounsOptions,
    ProposeOptions,
    RunOptions,
    SegmentOptions,
    ShardsOptions,
)
from ovseg.datasets.benchmark import read_benchmark
from ovseg.datasets.fetch.manifest import changed_files, read_manifest
from ovseg.datasets.fetch.parts import fetch, manifest_path, verify
from ovseg.datasets.fetch.releases import TABLE, parts_of, releases
from ovseg.datasets.official import BENCHMARKS, convert
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.evaluate import evaluate
from ovseg.evaluation.settings import three_classifiers
from ovseg.mining.run import mine_pairs
from ovseg.mining.verify import verify_shards
from tests.conftest import ROOT, Toys, digests
from tests.datasets.drawn_releases import labels_of
from tests.datasets.fetch.archives import Published, Slow, held, publish
from tests.datasets.fetch.layouts import DRAW
from tests.datasets.fetch.whole_run import Run
from tests.server import Served, serving

NEEDS = {
    "cocostuff": ("coco", ()),
    "ade150": ("ade20k", ("ade150",)),
    "ade847": ("ade20k", ("ade847",)),
    "pas20": ("pascal_voc", ()),
    "pc59": ("pascal_context", ()),
    "pc459": ("pascal_context", ()),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """All data sets; to be read, not written."""
    return publish(tmp_path_factory.mktemp("published"))


def arrive(published: Published, server: Served, dataset: str, names: tuple[str, ...], folder: Path) -> Path:
    """The folder of a data set after download and verification; what takes a login is fetched by hand."""
    home = folder / dataset
    for part in parts_of(dataset, names, published.serve(server, folder / "releases.json")):
        by_hand = folder / part.files[0].name
        if part.files[0].login:
            by_hand.write_bytes(published.archives[by_hand.name])
        fetch(part, home, archive=by_hand if part.files[0].login else None)
        verify(part, home)
        assert not changed_files(home, read_manifest(manifest_path(part, home)), full=True)
    return home


def test_the_small_table_is_the_real_one_but_for_hosts_counts_sizes_and_digests(
    published: Published, server: Served, tmp_path: Path
) -> None:
    small = releases(published.serve(server, tmp_path / "releases.json"))
    assert small.keys() == releases(TABLE).keys()
    for dataset, parts in small.items():
        for name, part in parts.items():
            real = releases(TABLE)[dataset][name]
            files = tuple(
                replace(one, url=was.url, bytes=was.bytes, about=was.about, digest=was.digest)
                for one, was in zip(part.files, real.files, strict=True)
            )
            holds = tuple(replace(one, files=was.files) for one, was in zip(part.holds, real.holds, strict=True))
            assert replace(part, files=files, holds=holds, unpacked=real.unpacked) == real
            assert all(0 < one.files < 100 for one in part.holds)


@pytest.mark.parametrize("name", NEEDS)
def test_a_benchmark_comes_from_its_official_archives_with_the_known_labels_and_is_scored(
    name: str,
    published: Published,
    server: Served,
    toys: Toys,
    runtime: Runtime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No image is lost on the way, no pixel changes, and the files are those that were packed."""
    dataset, names = NEEDS[name]
    truth, drawn, out = published.truth[name], published.homes[dataset], tmp_path / "benchmark"
    home = arrive(published, server, dataset, names, tmp_path)
    for part in parts_of(dataset, names, tmp_path / "releases.json"):
        for path in held({one.path: {"names": one.names} if one.names else {} for one in part.holds}, drawn):
            assert (home / path.relative_to(drawn)).read_bytes() == path.read_bytes()
    assert not list(home.rglob("__MACOSX")) and not list(home.rglob("*.zip")) and not list(home.rglob("*.tar*"))
    monkeypatch.setitem(BENCHMARKS, name, replace(BENCHMARKS[name], images=len(truth), counted=False))
    assert convert(name, home, out)["images"] == len(truth)
    labels = labels_of(read_benchmark(out))
    assert labels.keys() == truth.keys() and all(np.array_equal(labels[one], truth[one]) for one in truth)
    counts = evaluate(
        out,
        toys.network,
        {"toy": toys.clip},
        tmp_path / "table",
        runtime,
        three_classifiers("toy", 0.5, 0.7),
        options=SegmentOptions(templates="single"),
        crop=CropOptions(),
        oracles=False,
    )
    assert counts == {"images": len(truth)}
    assert {row["item"] for row in tables.rows(tmp_path / "table", "segmentations")} == set(range(len(truth)))


def test_coco_from_its_archives_is_mined_into_sound_shards(
    published: Published, server: Served, toys: Toys, tagger: str, runtime: Runtime, tmp_path: Path
) -> None:
    home = arrive(published, server, "coco", ("train2017", "annotations", "panoptic"), tmp_path)
    options = RunOptions(
        index=IndexOptions(images=home / "train2017", captions=home / "annotations/captions_train2017.json"),
        nouns=NounsOptions(model=tagger),
        propose=ProposeOptions(source="ground_truth", path=home / "annotations/panoptic_train2017.json"),
        clip=ClipOptions(model=f"local-dir:{toys.clip}"),
        shards=ShardsOptions(min_shards=2),
    )
    counts = mine_pairs(options, tmp_path / "mined", runtime)
    captions = json.loads((published.homes["coco"] / "annotations/captions_train2017.json").read_text())
    assert counts["index"]["images"] == len(captions["images"])
    assert counts["shards"]["samples"] == counts["select"]["pairs"] >= 12
    assert "all sound" in verify_shards(tmp_path / "mined")
    assert len(digests(tmp_path / "mined" / "shards", "*.tar")) == 2


# killed again and again ----------------------------------------------------------------------------------------------

MOMENTS = {  # which files are being written; which of them, and how many milliseconds later, is drawn by lot
    "downloading": r"/archives/[^/]+\.part$",
    "finishing a download": r"/archives/[^/]+\.part\.json$",
    "checking": r"/receipts/",
    "unpacking": r"/(?!archives)\w+/.*\.(jpg|png|json|mat|txt)\.part$",
    "unpacking what was packed twice": r"/annotations/panoptic_\w+/\d+\.png\.part$",
    "verifying": r"/manifests/\w+\.tsv\.tmp$",
    "removing archives": r"/archives/[^/]+\.(zip|tar|gz|txt)$",
    "converting": r"/labels/",
}
ONCE = ("finishing a download", "removing archives")  # killed at the first, and at once
MINING = {"mining nouns": r"/nouns", "mining shards": r"\.tar"}  # before and after models are loaded


@dataclass(frozen=True)
class World:
    """A place that runs are made in, again and again from nothing: paths are part of what a run notes."""

    folder: Path
    run: Run

    def start(self, *steps: str, kill: tuple[str, int, float] | None = None) -> int:
        """The exit code of a run."""
        path = self.folder / "run.json"
        path.write_text(json.dumps(asdict(replace(self.run, steps=steps, kill=kill))), encoding="utf-8")
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'pipeline'}:{ROOT}",
            "OVSEG_WORK": str(self.folder / "work"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.datasets.fetch.whole_run", str(path)],
            cwd=ROOT,
            env=environment,
            start_new_session=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    def made(self) -> dict[str, str]:
        """sha256 of all that a run leaves, but for the account of when mining began."""
        return {name: sha for name, sha in digests(self.folder / "made").items() if name != "mined/run.json"}


@pytest.fixture(scope="module")
def world(toys: Toys, tagger: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Drawn data sets alone, without the real photographs, on a server that is slow."""
    folder = tmp_path_factory.mktemp("world")
    with serving(Slow) as served:
        published = publish(folder / "published", real=False)
        table = published.serve(served, folder / "releases.json")
        served.files |= {f"/all/{name}": data for name, data in published.archives.items()}
        benchmarks = {name: dataset for name, (dataset, _) in NEEDS.items()}
        made = str(folder / "made")
        yield World(folder, Run(str(table), f"{served.url}/all", made, benchmarks, str(toys.clip), tagger))


@pytest.mark.slow
def test_killed_while_downloading_unpacking_verifying_converting_and_mining_it_ends_with_the_same_bytes(
    world: World,
) -> None:
    """Each data set at each moment: files, manifests, receipts, labels, tables, pairs and shards are the same."""
    assert world.start(*DRAW, "mine") == 0
    whole = world.made()
    for name in ("made", "work"):
        (world.folder / name).rename(world.folder / f"whole_{name}")
    dice = random.Random(0)
    for step, moment, pattern in _moments():
        times, late = (1, 0.0) if moment in ONCE else (dice.randint(1, 2), dice.random() * 20)
        assert world.start(step, kill=(pattern, times, late)) == -signal.SIGKILL, (step, moment)
    assert world.start(*DRAW, "mine") == 0
    assert world.made() == whole
    assert not list((world.folder / "made").rglob("*.part"))


def _moments() -> Iterator[tuple[str, str, str]]:
    """Step, moment, and pattern of the paths that are written then."""
    for dataset in DRAW:
        for moment, pattern in MOMENTS.items():
            if moment == "converting":
                names = [name for name, (one, _) in NEEDS.items() if one == dataset]
                yield from ((dataset, moment, f"/benchmarks/{name}.*{pattern}") for name in names)
            elif dataset == "coco" or "twice" not in moment:
                yield dataset, moment, f"/made/{dataset}.*{pattern}"
    yield from (("mine", moment, pattern) for moment, pattern in MINING.items())
