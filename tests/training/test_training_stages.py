"""What the scripts of the trainings hand over: which masks the model card names, what a training may drop, its loaders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from ovseg.core import tables
from ovseg.core.params import read_params
from ovseg.engine.runtime import Runtime
from ovseg.training.distributed import loader_workers
from stages import proposal_network
from stages._adapt import regions_source, shards_source
from tests.conftest import ROOT
from tests.training.region_run import rows_of_pairs, rows_of_proposals, write_run

PARAMS = read_params(ROOT / "params.yaml")


def test_a_region_encoder_names_the_masks_and_the_license_of_the_run_that_it_is_trained_on(tmp_path: Path) -> None:
    """Not those of the shards, which crops are trained on; annotated masks are named where they are mined pairs."""
    run, licence = write_run(tmp_path), {tables.LICENCE: "CC-BY-NC-4.0"}
    tables.write_part(run.proposals / "00000.parquet", "proposals", rows_of_proposals(0), "f", licence)
    mined = [{**rows_of_pairs(0)[0], "source": source} for source in ("annotated", "sam2")]
    tables.write_part(run.pairs / "00000.parquet", "pairs", mined, "f")
    expected = {"mask_source": "annotated, sam2", "mask_licence": "CC-BY-NC-4.0"}
    assert regions_source(run, "mined", PARAMS) == expected
    for pairs in ("annotated", "proposals", "mix"):
        assert regions_source(run, pairs, PARAMS) == {**expected, "mask_source": "proposal_network"}


def test_crops_name_the_masks_and_the_license_of_their_shards(tmp_path: Path) -> None:
    tables.write_part(tmp_path / "00000.parquet", "samples", [{"key": "0", "source": "sam2"}], "f")
    assert shards_source(tmp_path, PARAMS) == {"mask_source": "sam2", "mask_licence": PARAMS.propose.licence}


def test_the_proposal_network_may_drop_what_the_parameters_say(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Runtime] = []
    monkeypatch.setattr(sys, "argv", ["stages.proposal_network"])
    monkeypatch.setattr(proposal_network, "train_proposal_network", lambda *arguments: given.append(arguments[4]))
    changed: Any = PARAMS.model_copy(update={"checks": PARAMS.checks.model_copy(update={"max_dropped": 0.125})})
    proposal_network.main(changed)
    assert given[0].max_dropped == 0.125


@pytest.mark.parametrize(("ranks", "workers", "each"), [(1, 2, 2), (4, 16, 4), (8, 12, 1), (8, 4, 1), (2, 0, 0)])
def test_the_ranks_of_a_machine_share_its_loader_processes(
    monkeypatch: pytest.MonkeyPatch, ranks: int, workers: int, each: int
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert loader_workers(workers) == each
