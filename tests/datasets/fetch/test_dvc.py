"""DVC on downloaded data: a small copy of the paper's recipe, and small archives of COCO on a local server."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, digests
from tests.copy import Copy, copy_repository, stages_ran
from tests.datasets.fetch.archives import Published, publish
from tests.server import Served, serving
from tests.structure.test_dag import ORDER

pytestmark = pytest.mark.slow

PARTS = ("train2017", "val2017", "annotations", "panoptic", "stuffthingmaps")
OVSEG = (sys.executable, "-m", "ovseg.cli.app")


@dataclass(frozen=True)
class World:
    """COCO on a server; a copy of the repository that has downloaded it, and one that has not.

    Attributes:
        published: the data set.
        served: the server that it is downloaded from.
        whole: a copy after `dvc repro` of a small recipe.
        output: output of that command.
        fresh: another copy.
    """

    published: Published
    served: Served
    whole: Copy
    output: str
    fresh: Copy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with serving() as served:
        published = publish(folder / "published", "coco", real=False)
        whole, fresh = (_small(folder / name / "ovseg", published, served) for name in ("whole", "fresh"))
        whole.env["OVSEG_KEEP_ARCHIVES"] = "1"
        yield World(published, served, whole, whole.dvc("repro"), fresh)


def _small(folder: Path, published: Published, served: Served) -> Copy:
    """A copy of the repository with a small table of releases, as few published images, and a small recipe."""
    copy = copy_repository(folder)
    published.serve(served, folder / "pipeline/ovseg/datasets/fetch/releases.json")
    stuff = folder / "pipeline" / "ovseg" / "datasets" / "coco_stuff.py"
    known = stuff.read_text()
    stuff.write_text(known.replace("images=5_000", f"images={len(published.truth['cocostuff'])}"))
    assert stuff.read_text() != known
    paper, tiny = (yaml.safe_load((ROOT / "recipes" / name).read_text()) for name in ("coco-vitb.yaml", "tiny.yaml"))
    (folder / "params.yaml").write_text(yaml.safe_dump(_shrunk(paper, tiny)))
    copy.commit("small")
    return copy


def _shrunk(paper: dict[str, Any], tiny: dict[str, Any]) -> dict[str, Any]:
    """A recipe with the models and the few steps of another one, and its own data."""
    own = {name: paper["proposal_network"][name] for name in ("annotations", "classes", "licence")}
    small = {name: tiny[name] for name in ("clip", "finetune", "prompt")}
    changes = {
        "data": {name: tiny["data"][name] for name in ("clip", "tagger", "network")},
        "nouns": {name: tiny["nouns"][name] for name in ("model", "model_version")},
        "proposal_network": tiny["proposal_network"] | own,
        "shards": {"min_shards": 2},
        "calibrate": {"limit": 2, "weights": [0.0, 0.5], "thresholds": [0.4]},
        "evaluate": {"benchmarks": ["cocostuff"]},
        "report": {"benchmark": "cocostuff", "images": 1, "pairs": 10},
    }
    return paper | small | {name: paper[name] | new for name, new in changes.items()}


def _stages(benchmarks: list[str]) -> list[str]:
    """The stages of dvc.yaml, with those of each model and benchmark."""
    matrices = {"measure": ["proposal_network", "base", "finetune", "prompt"], "embed": benchmarks}
    matrices["evaluate"] = benchmarks
    plain = [stage for stage in ORDER if stage not in matrices]
    return plain + [f"{stage}@{item}" for stage, items in matrices.items() for item in items]


def test_one_command_goes_from_archives_on_a_server_to_the_report(world: World) -> None:
    """What nothing asks for, the benchmark of 156 seen classes and the other data sets, stays where it is."""
    ran = stages_ran(world.output)
    fetched = [f"data/coco/dvc.yaml:{step}@{part}" for step in ("download", "verify") for part in PARTS]
    assert sorted(ran) == sorted([*fetched, "data/coco/dvc.yaml:convert@cocostuff", *_stages(["cocostuff"])])
    assert set(world.served.asked.values()) == {1} and len(world.served.asked) == len(PARTS)
    folder, drawn = world.whole.folder, world.published.homes["coco"]
    arrived = {name: sha for name, sha in digests(folder / "data/coco").items() if (drawn / name).is_file()}
    assert arrived == {name: sha for name, sha in digests(drawn).items() if not name.startswith("scratch")}
    metrics = json.loads((folder / "reports/metrics.json").read_text())
    captions = json.loads((drawn / "annotations/captions_train2017.json").read_text())
    assert metrics["images"] == len(captions["images"]) and metrics["samples"] > 0
    assert metrics["benchmarks"].keys() == {"cocostuff"}
    figures = json.loads((folder / "reports/evaluate/cocostuff/metrics.json").read_text())
    assert figures["images"] == len(world.published.truth["cocostuff"])
    assert (folder / "reports/index.html").is_file()


def test_a_second_run_does_nothing_with_archives_and_without_them(world: World) -> None:
    asked, archives = world.served.asked.copy(), world.whole.folder / "data/coco/archives"
    assert len(list(archives.iterdir())) == len(PARTS)
    for _ in range(2):
        assert stages_ran(world.whole.dvc("repro")) == [] and world.served.asked == asked
        shutil.rmtree(archives, ignore_errors=True)


def test_one_changed_image_is_found_by_a_full_verification(world: World) -> None:
    image = min((world.whole.folder / "data/coco/train2017").iterdir())
    data = image.read_bytes()
    verify = (*OVSEG, "data", "verify", "coco", "--full")
    assert world.whole.run(*verify).stdout.count("as verified") == len(PARTS)
    image.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    done = world.whole.run(*verify, check=False)
    image.write_bytes(data)
    assert done.returncode == 1 and f"1 missing or changed\n  data/coco/train2017/{image.name}\n" in done.stdout


@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "recipes").glob("*.yaml")))
def test_every_stage_of_a_recipe_is_printed_where_no_data_is(recipe: str, world: World) -> None:
    """`dvc repro --dry` alone wants what a stage would have made; with `--force` it does not."""
    copy = world.fresh
    before = (copy.folder / "params.yaml").read_text()
    shutil.copyfile(ROOT / "recipes" / recipe, copy.folder / "params.yaml")
    try:
        ran = stages_ran(copy.dvc("repro", "--dry", "--force"))
    finally:
        (copy.folder / "params.yaml").write_text(before)
    read = yaml.safe_load((ROOT / "recipes" / recipe).read_text())
    wanted = set(_stages(read["evaluate"]["benchmarks"]))
    if "benchmarks" in read["evaluate"]["folder"]:
        wanted |= {f"data/coco/dvc.yaml:{step}@{part}" for step in ("download", "verify") for part in PARTS}
    assert wanted <= set(ran)
    assert not (copy.folder / "data/coco/archives").exists()


def test_linked_data_is_not_downloaded(world: World) -> None:
    copy, asked = world.fresh, world.served.asked.copy()
    theirs = world.whole.folder / "data" / "coco"
    before = digests(theirs)
    copy.run(*OVSEG, "data", "link", "coco", str(theirs))
    ran = stages_ran(copy.dvc("repro", "data/coco/dvc.yaml:convert@cocostuff"))
    assert ran[-1].endswith("convert@cocostuff") and world.served.asked == asked and digests(theirs) == before
    for name in ("val2017", "stuffthingmaps/val2017"):
        assert (copy.folder / "data/coco" / name).is_symlink()
    ours = copy.folder / "data/benchmarks/cocostuff"
    labels = [digests(one / "labels") for one in (ours, world.whole.folder / "data/benchmarks/cocostuff")]
    assert labels[0] == labels[1] and labels[0]


def test_an_edit_of_code_converts_anew_but_downloads_nothing(world: World) -> None:
    copy, asked = world.whole, world.served.asked.copy()
    for path in ("core/images.py", "datasets/fetch/parts.py", "engine/download.py"):
        with (copy.folder / "pipeline" / "ovseg" / path).open("a") as stream:
            stream.write("\n\nEDITED = True\n")
    ran = stages_ran(copy.dvc("repro", "data/coco/dvc.yaml:convert@cocostuff"))
    assert ran == ["data/coco/dvc.yaml:convert@cocostuff"] and world.served.asked == asked
