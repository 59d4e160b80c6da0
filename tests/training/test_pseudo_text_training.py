"""Training with pseudo-texts, MaskCLIP++'s PSM for ConvNeXt towers: what learns, exact resume, and how the result is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from ovseg.clip.adapted import load_adapted
from ovseg.clip.pseudo_text import PSEUDO_TEXT
from ovseg.clip.region_settings import REGION_ENCODER
from ovseg.clip.regions import masks_on_grid, whole_image
from ovseg.core import masks
from ovseg.core.errors import OvsegError
from ovseg.core.hashing import sha256_path
from ovseg.core.options import CropOptions, FinetuneOptions, HeldoutOptions
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.mask_accuracy import measure_mask_accuracy
from ovseg.segmentation.class_names import build_vocabulary
from ovseg.segmentation.region_encoder import RegionEncoder
from ovseg.training.distributed import World
from ovseg.training.loop import StepResult
from ovseg.training.monitor import read_heldout
from ovseg.training.region_step import RegionStep
from ovseg.training.region_tower import build_region_tower
from ovseg.training.region_training import RunFolders, build_region_loop, read_run, region_optimizer
from tests.conftest import Coco
from tests.towers import save
from tests.training.region_run import write_run
from tests.training.test_region_training import POOLED, changed, options, train

PSEUDO: dict[str, Any] = {**POOLED, "psm": "pseudo_text", "scale_lr": 1e-2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolders:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def convnext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("convnext", tmp_path_factory.mktemp("convnext"))


@pytest.fixture(scope="module")
def trained(convnext: Path, run: RunFolders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(convnext, run, tmp_path_factory.mktemp("trained") / "out", chosen(convnext))


def chosen(base: Path, method: str = "maskclippp", **changes: Any) -> FinetuneOptions:
    return options(method, base, **{**PSEUDO, **changes})


def test_pseudo_texts_learn_with_the_tower_and_take_the_place_of_scale_and_template_weights(
    convnext: Path, run: RunFolders, trained: Path, tmp_path: Path
) -> None:
    """Stock open_clip loads the folder, and the loss falls."""
    before = train(convnext, run, tmp_path / "before", chosen(convnext, epochs=0))
    new, learned = load_file(before / PSEUDO_TEXT), load_file(trained / PSEUDO_TEXT)
    assert {name for name in new if not torch.equal(new[name], learned[name])} == new.keys()
    tensors = changed(convnext, trained)
    assert "visual.trunk.stem.0.weight" in tensors and all(name.startswith("visual.") for name in tensors)
    assert json.loads((trained / REGION_ENCODER).read_text()) == {"encoder": "pooled", "image_size": 64}
    assert open_clip.create_model(f"local-dir:{trained}") is not None
    losses = [float(line.split("\t")[1]) for line in (trained / "training.tsv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]


def test_the_loss_is_the_cross_entropy_of_regions_and_the_texts_of_their_image(convnext: Path, run: RunFolders) -> None:
    """Each image counts as much, and in it each class, and of a class each region; a new PSM is the layer norm of the text."""
    annotated = chosen(convnext, pairs="annotated")
    clip, world = load_adapted(convnext), World(0, 1, torch.device("cpu"))
    tower, regions = build_region_tower(clip, annotated), read_run(run, annotated)
    loop = build_region_loop(clip, tower, regions, 4, annotated, CropOptions(), Runtime(workers=0), world)
    step, other = loop.make_step(0), loop.make_step(0)
    assert isinstance(step, RegionStep) and isinstance(other, RegionStep)
    batch = next(other.batches)
    texts = torch.nn.functional.normalize(step.texts.mean(0), dim=-1)
    with torch.no_grad():
        vectors = tower(batch["image"], batch["masks"])
    expected = []
    for image in range(len(batch["image"])):
        of_image = [(region, label) for i, region, label in batch["pairs"].tolist() if i == image]
        scores = vectors[image] @ torch.nn.functional.layer_norm(texts, (16,)).T
        classes = {label for _, label in of_image}
        for of_class in classes:
            losses = [-scores[region].log_softmax(0)[label] for region, label in of_image if label == of_class]
            expected.append(torch.stack(losses).mean() / len(classes))
    assert float(step(0).loss) == pytest.approx(float(sum(expected)) / len(batch["image"]), abs=1e-5)


def gradients(
    folder: Path, run: RunFolders, micro_batch: int | None = None, world: World | None = None
) -> dict[str, torch.Tensor]:
    """Of the first step, on this rank's part of the batch, without what attention drops out."""
    options_, clip = chosen(folder), load_adapted(folder)
    tower, runtime = build_region_tower(clip, options_), Runtime(workers=0, micro_batch=micro_batch)
    assert tower.texts.pseudo_text is not None
    tower.texts.pseudo_text.eval()
    world = world or World(0, 1, torch.device("cpu"))
    loop = build_region_loop(clip, tower, read_run(run, options_), 4, options_, CropOptions(), runtime, world)
    loop.make_step(0)(0)
    parameters = {**dict(tower.named_parameters()), **tower.texts.parameters()}
    return {name: p.grad for name, p in parameters.items() if p.grad is not None}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert sum(name.startswith("pseudo_text.") for name in found) == 7
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * largest, rtol=1e-3, msg=name)


def test_micro_batches_give_the_same_gradients(trained: Path, run: RunFolders) -> None:
    assert_close(gradients(trained, run, micro_batch=1), gradients(trained, run))


def test_resume_equals_uninterrupted_bit_for_bit_with_what_drops_out(
    convnext: Path, run: RunFolders, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = RegionStep.__call__, []

    def fails_at_third(self: RegionStep, number: int) -> StepResult:
        calls.append(number)
        torch.rand(len(calls))  # whatever else has drawn random numbers
        if len(calls) == 3:
            raise RuntimeError("power cut")
        return real(self, number)

    monkeypatch.setattr(RegionStep, "__call__", fails_at_third)
    with pytest.raises(RuntimeError, match="power cut"):
        train(convnext, run, tmp_path / "cut", chosen(convnext), checkpoint_seconds=0)
    train(convnext, run, tmp_path / "cut", chosen(convnext), checkpoint_seconds=0)
    assert calls == [0, 1, 2, 2, 3]
    assert not changed(trained, tmp_path / "cut")
    assert sha256_path(tmp_path / "cut" / PSEUDO_TEXT) == sha256_path(trained / PSEUDO_TEXT)


def test_a_training_goes_on_with_the_pseudo_texts_of_the_initial_clip(
    trained: Path, run: RunFolders, tmp_path: Path
) -> None:
    """Without steps nothing changes, with whichever method; a method without them leaves them out."""
    learned = load_file(trained / PSEUDO_TEXT)
    tower = build_region_tower(load_adapted(trained), chosen(trained))
    assert tower.texts.pseudo_text is not None
    assert all(torch.equal(learned[name], value) for name, value in tower.texts.pseudo_text.state_dict().items())
    for method, psm in (("maskclippp", "pseudo_text"), ("maskclippp", "linear"), ("regions", "linear")):
        again = train(trained, run, tmp_path / f"{method}-{psm}", chosen(trained, method, psm=psm, epochs=0))
        assert sha256_path(again / PSEUDO_TEXT) == sha256_path(trained / PSEUDO_TEXT)
    out = train(trained, run, tmp_path / "regions", chosen(trained, "regions", psm="linear", max_steps=1))
    assert not (out / PSEUDO_TEXT).exists()


def test_matrices_of_pseudo_texts_have_weight_decay_and_all_of_them_scale_lr(convnext: Path) -> None:
    tower = build_region_tower(load_adapted(convnext), chosen(convnext))
    groups = region_optimizer(
        tower, torch.nn.Parameter(torch.ones(()), requires_grad=False), chosen(convnext)
    ).param_groups
    decays = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    for name, parameter in tower.texts.of_pseudo_text().items():
        assert decays[id(parameter)] == (1e-2, 0.2 if parameter.ndim == 2 else 0.0), name


def test_it_is_used_as_it_was_trained(trained: Path) -> None:
    """What segmentation compares of an image's regions is a hundredth of the logits of the loss."""
    clip, names = load_adapted(trained), [["kite"], ["sea", "ocean"], ["boat"]]
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    regions = np.zeros((2, 40, 48), bool)
    regions[0, :, :20] = regions[1, 10:12, 30:32] = True
    tower = build_region_tower(load_adapted(trained), chosen(trained))
    assert tower.texts.pseudo_text is not None
    with torch.no_grad():
        vectors = tower(whole_image(clip, pixels)[None], masks_on_grid(clip, regions)[None])[0]
        texts = tower.texts.pseudo_text.eval()(
            clip.embed_names(["kite", "sea", "ocean", "boat"], "vild"), vectors[None, 3:]
        )
    logits = vectors[:2] @ texts[0].T
    expected = torch.stack([logits[:, 0], logits[:, 1:3].amax(1), logits[:, 3]], dim=1)

    vocabulary = build_vocabulary(names, clip, "vild")
    encoder = RegionEncoder(clip, batch_size=8)
    rles = [None, *map(masks.encode, regions)]
    embeddings = encoder.embed(encoder.crop_regions(pixels, rles))
    assert len(embeddings) == 2 + 4  # of 2 x 2 cells
    found = vocabulary.similarity(embeddings[:2], embeddings[2:])
    torch.testing.assert_close(found, (expected / 100).double(), atol=2e-5, rtol=0)
    assert not len(encoder.embed(encoder.crop_regions(pixels, [None]))) and encoder.rows([None]) == [None]


def test_the_curve_of_a_training_is_the_mask_accuracy_of_the_stage_measure(trained: Path, coco: Coco) -> None:
    clip, heldout = load_adapted(trained), HeldoutOptions(images=coco.images, annotations=coco.instances)
    crop = CropOptions()
    scores = measure_mask_accuracy(
        {"clip": clip},
        heldout.images,
        heldout.annotations,
        fill=crop.fill,
        antialias=crop.antialias,
        templates=heldout.templates,
        batch_size=8,
    )
    assert read_heldout(clip, heldout, crop).accuracy(clip) == pytest.approx(scores["clip"]["mask_accuracy"], abs=1e-6)


@pytest.mark.parametrize(
    ("method", "changes"),
    [("regions", {}), ("maft", {}), ("maskclippp", {"region_encoder": "region_tokens", "image_size": 48})],
)
def test_another_method_or_encoder_is_refused_with_a_remedy(
    base: Path, run: RunFolders, tmp_path: Path, method: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(
        OvsegError, match=r"finetune\.psm=pseudo_text is for finetune\.method=maskclippp.* set it to linear"
    ):
        train(base, run, tmp_path / "out", chosen(base, method, **changes))
