"""Images with regions from the three sources: what is a region, what it is called, and an order that follows from the seed."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from ovseg.clip.embedding_files import write_embeddings
from ovseg.core.errors import OvsegError
from ovseg.core.options import RegionPairs
from ovseg.training.region_dataset import RegionBatch, RegionDataset, TeacherInput, collate_regions, read_regions
from ovseg.training.region_sources import SOURCES, RegionRows, read_region_tables, region_overlaps
from ovseg.training.region_training import RunFolders
from tests.training.region_run import IMAGES, NOUNS, rows_of_pairs, rows_of_proposals, write_run

SIZE, GRID = 32, 4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolders:
    return write_run(tmp_path_factory.mktemp("run"))


def dataset(run: RunFolders, source: RegionPairs, seed: int = 0, teacher: TeacherInput | None = None) -> RegionDataset:
    tables = read_region_tables(run.index, run.images, run.proposals, run.pairs, source)
    return RegionDataset(tables, SIZE, GRID, seed, teacher)


def rows(source: RegionPairs) -> RegionRows:
    return SOURCES[source](rows_of_proposals(0), rows_of_pairs(0))


def test_annotated_regions_have_their_class_names() -> None:
    assert rows("annotated").pairs == [(0, "sky"), (1, "sea")]
    assert region_overlaps(rows("annotated").regions, rows("annotated").references).tolist() == [[1, 0], [0, 1]]


def test_proposals_take_the_class_that_they_cover_best_if_it_is_half_of_both() -> None:
    """The third covers 14 columns of the sky and 10 of the sea, of 34 and 38 together; the fourth is a sliver of the sea."""
    assert len(rows("proposals").regions) == 4
    assert rows("proposals").pairs == [(0, "sky"), (1, "sea")]


def test_a_mined_noun_has_its_proposal_as_reference() -> None:
    mined = rows("mined")
    assert mined.pairs == [(0, "kite")]
    overlaps = region_overlaps(mined.regions, mined.references)
    assert overlaps[0].tolist() == pytest.approx([1, 0, 12 / 34, 0])


def test_a_mix_has_mined_and_annotated_pairs_and_the_annotated_reference_of_a_noun_with_both() -> None:
    """Proposals 0 to 3 are the network's, 4 (the sky) and 5 (the sea) are annotated; mining says kite of 0 and sea of 1."""
    mined = [*rows_of_pairs(0), {**rows_of_pairs(0)[0], "noun": "sea", "proposal": 1}]
    mixed = SOURCES["mix"](rows_of_proposals(0), mined)
    assert [row["proposal"] for row in mixed.regions] == [0, 1, 2, 3, 4, 5]
    assert mixed.pairs == [(0, "kite"), (4, "sky"), (5, "sea")]
    assert mixed.references["kite"] == mixed.regions[0]["rle"]
    assert mixed.references["sea"] == mixed.regions[5]["rle"]


def test_an_annotated_mask_that_mining_chose_is_one_region_of_a_mix() -> None:
    mixed = SOURCES["mix"](rows_of_proposals(0), [{**rows_of_pairs(0)[0], "proposal": 5}])
    assert [row["proposal"] for row in mixed.regions] == [0, 1, 2, 3, 5, 4]
    assert mixed.pairs == [(4, "kite"), (5, "sky"), (4, "sea")]


def test_the_texts_of_a_mix_are_class_names_and_nouns(run: RunFolders) -> None:
    data = dataset(run, "mix")
    assert data.tables.texts == sorted([*NOUNS, "sky", "sea"]) and len(data) == IMAGES
    assert len(data[0]["pairs"]) == len(data[0]["classes"]) == 3


def test_no_decoded_image_is_kept_in_memory(run: RunFolders) -> None:
    """A data set of images is larger than memory; an epoch reads all of it."""
    data = dataset(run, "mined")
    assert all(data[place]["image"].any() for place in range(IMAGES))
    assert not any("pixels" in vars(record) for record in data.tables.images)


def test_overlaps_are_computed_where_the_loss_needs_them_alone(run: RunFolders) -> None:
    data = dataset(run, "annotated")
    without = replace(data, overlaps=False)[0]["overlaps"]
    assert data[0]["overlaps"].any() and not without.any() and without.shape == data[0]["overlaps"].shape


def test_masks_are_the_fraction_of_each_patch_that_is_covered(run: RunFolders) -> None:
    sample = dataset(run, "annotated")[0]
    assert sample["image"].shape == (3, SIZE, SIZE)
    assert torch.equal(sample["masks"][0], torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(GRID, GRID))


def test_a_teacher_gets_the_crops_of_all_regions(run: RunFolders, tmp_path: Path) -> None:
    sample = dataset(run, "mined", teacher=TeacherInput(16, None, True, tmp_path))[0]
    assert sample["crops"].shape == (4, 3, 16, 16)
    assert sample["crop_masks"].all() and sample["taught"] is None


def test_regions_that_a_teacher_has_encoded_before_are_not_cropped_again(run: RunFolders, tmp_path: Path) -> None:
    data = dataset(run, "mined", teacher=TeacherInput(16, None, True, tmp_path))
    vectors, file = torch.rand(4, 7), data[0]["teacher_file"]
    assert file is not None and file.path.parent == tmp_path
    write_embeddings(file, vectors)
    sample = data[0]
    assert sample["taught"] is not None and torch.equal(sample["taught"], vectors)
    assert sample["crops"].shape == (0, 3, 16, 16) and data[1]["taught"] is None


def test_every_epoch_has_every_image_once_in_an_order_of_its_own(run: RunFolders) -> None:
    data = dataset(run, "mined", seed=3)
    epochs = [[data[epoch * IMAGES + i]["key"] for i in range(IMAGES)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


def test_reading_from_a_later_batch_and_in_ranks_gives_the_same_images(run: RunFolders) -> None:
    data = dataset(run, "mined")
    whole = [batch["keys"] for batch in islice(read_regions(data, 4, 0, 1, 0, 0), 5)]
    later = [batch["keys"] for batch in islice(read_regions(data, 4, 0, 1, 3, 0), 2)]
    halves = [[b["keys"] for b in islice(read_regions(data, 4, rank, 2, 0, 0), 5)] for rank in range(2)]
    assert later == whole[3:]
    assert [first + second for first, second in zip(*halves, strict=True)] == whole


def test_a_batch_is_padded_and_its_rows_name_their_image(run: RunFolders) -> None:
    samples = [dataset(run, "annotated")[0], dataset(run, "proposals")[0]]
    batch: RegionBatch = collate_regions(samples)
    assert batch["real"].tolist() == [[True, True, False, False], [True] * 4]
    assert not batch["masks"][0, 2:].any()
    assert batch["pairs"][:, 0].tolist() == [0, 0, 1, 1]
    assert batch["overlaps"].shape == (4, 4)


def test_an_image_that_changed_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path)
    data = dataset(run, "mined")
    data.tables.images[0].root.joinpath(data.tables.images[0].file).write_bytes(b"no image")
    samples = [data[i] for i in range(IMAGES)]
    assert sum(not len(sample["masks"]) for sample in samples) == 1
    assert "left out" in caplog.text


@pytest.mark.parametrize("source", ["mined", "mix"])
def test_a_run_without_what_the_source_needs_is_refused(tmp_path: Path, source: RegionPairs) -> None:
    run = write_run(tmp_path, pairs=False)
    with pytest.raises(OvsegError, match=rf"finetune\.pairs={source}: .*pairs has no pair; loosen .*annotated"):
        read_region_tables(run.index, run.images, run.proposals, run.pairs, source)


@pytest.mark.parametrize("source", ["annotated", "proposals", "mix"])
def test_a_run_without_annotated_masks_is_refused_where_they_are_needed(tmp_path: Path, source: RegionPairs) -> None:
    run = write_run(tmp_path, annotated=False)
    with pytest.raises(OvsegError, match=rf"finetune\.pairs={source}: .*no annotated mask; .*finetune\.pairs=mined"):
        read_region_tables(run.index, run.images, run.proposals, run.pairs, source)
    assert len(read_region_tables(run.index, run.images, run.proposals, run.pairs, "mined").images) == IMAGES
