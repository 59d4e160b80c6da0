"""Training region encoders as a whole: what learns, exact resume, what is published, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from ovseg.clip.adapted import load_adapted, read_provenance
from ovseg.clip.load import Clip
from ovseg.clip.mask_adapter import ADAPTER
from ovseg.clip.region_settings import REGION_ENCODER, RegionSettings
from ovseg.clip.regions import encode_regions, masks_on_grid, whole_image
from ovseg.clip.save import WEIGHTS
from ovseg.core.crops import fill_color
from ovseg.core.errors import OvsegError
from ovseg.core.hashing import sha256_path
from ovseg.core.options import CropOptions, FinetuneOptions, PromptOptions
from ovseg.core.vocabulary import TEMPLATES, embed
from ovseg.engine.runtime import Runtime
from ovseg.segmentation.class_names import build_vocabulary
from ovseg.training import region_training as module
from ovseg.training.adapt import adapt
from ovseg.training.distributed import World
from ovseg.training.loop import StepResult
from ovseg.training.objectives import OBJECTIVES
from ovseg.training.region_dataset import RegionBatch, RegionDataset, read_regions
from ovseg.training.region_step import RegionStep
from ovseg.training.region_tower import build_region_tower, region_settings
from ovseg.training.region_training import (
    RunFolders,
    adapt_regions,
    build_region_loop,
    read_run,
    region_optimizer,
)
from tests.towers import save
from tests.training.region_run import IMAGES, write_run

SOURCE = {"mask_source": "proposal_network", "mask_licence": "Apache-2.0"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolders:
    return write_run(tmp_path_factory.mktemp("run"))


def options(method: str, base: Path, **changes: Any) -> FinetuneOptions:
    values: dict[str, Any] = {
        "method": method,
        "epochs": 2,
        "batch_size": 4,
        "lr": 1e-3,
        "warmup_steps": 1,
        "precision": "fp32",
        "start_block": 1,
        "image_size": 48,
        "teacher": base if method == "distil" else None,
        "adapter_width": 24,
        **({"region_encoder": "mask_adapter"} if method == "mask_adapter" else {}),
        **changes,
    }
    return FinetuneOptions(**values)


def train(base: Path, run: RunFolders, out: Path, chosen: FinetuneOptions, **runtime: Any) -> Path:
    work = Runtime(workers=runtime.pop("workers", 0), work=out.parent / f"work-{out.name}", **runtime)
    adapt_regions(base, run, out, work, chosen, CropOptions(), SOURCE)
    return out


def changed(base: Path, out: Path) -> set[str]:
    """The tensors that differ, those of the mask adapters that both folders have among them."""
    files = [name for name in (WEIGHTS, ADAPTER) if (base / name).is_file() and (out / name).is_file()]
    pairs = [(load_file(base / name), load_file(out / name)) for name in files]
    return {name for before, after in pairs for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("source", ["annotated", "proposals", "mined"])
@pytest.mark.parametrize("method", OBJECTIVES)
def test_every_method_learns_from_every_source_what_it_says(
    base: Path, run: RunFolders, tmp_path: Path, method: str, source: str
) -> None:
    out = train(base, run, tmp_path / "out", options(method, base, pairs=source, max_steps=2))
    learned = changed(base, out)
    named = {name for name in learned if name.startswith("visual.")}
    pattern = OBJECTIVES[method].trains  # type: ignore[index]
    assert bool(named) == (pattern is not None)
    assert pattern is None or all(pattern.fullmatch(name.removeprefix("visual.")) for name in named)
    assert ("logit_scale" in learned) == (method in ("regions", "maskclippp"))
    assert learned - named <= {"logit_scale"}


def test_maft_trains_attention_and_norms_and_maskclippp_the_inputs_of_attention(base: Path) -> None:
    def trained(method: str) -> set[str]:
        tower = build_region_tower(load_adapted(base), options(method, base))
        return {re.sub(r"\d+", "N", name) for name, p in tower.named_parameters() if p.requires_grad}

    block = "visual.transformer.resblocks.N"
    attention = {
        f"{block}.attn.{name}" for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    }
    norms = {f"{norm}.{kind}" for norm in (f"{block}.ln_N", "visual.ln_post") for kind in ("weight", "bias")}
    assert trained("maft") == attention | norms
    assert trained("maskclippp") == {f"{block}.attn.in_proj_weight", "visual.positional_embedding"}
    assert trained("regions") == trained("distil") > attention | norms | {"visual.proj"}


@pytest.fixture(scope="module")
def convnext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("convnext", tmp_path_factory.mktemp("convnext"))


POOLED: dict[str, Any] = {"region_encoder": "pooled", "image_size": 64, "start_block": 8}
OF_TOWERS = [method for method, objective in OBJECTIVES.items() if objective.trains]


@pytest.mark.parametrize("method", OF_TOWERS)
def test_a_convnext_learns_as_a_whole_and_is_used_as_it_was_trained(
    convnext: Path, run: RunFolders, tmp_path: Path, method: str
) -> None:
    """Its text tower stays; the folder says pooled, and encodes the regions of an image as training does."""
    chosen = options(method, convnext, **POOLED, scale_lr=1e-2, weight_decay=0.0)
    out = train(convnext, run, tmp_path / "out", chosen)
    learned = changed(convnext, out)
    named = {name for name in learned if name.startswith("visual.")}
    assert {"visual.trunk.stem.0.weight", "visual.trunk.head.norm.weight", "visual.head.proj.weight"} <= named
    assert learned - named == ({"logit_scale"} if method in ("regions", "maskclippp") else set())
    encoder = json.loads((out / REGION_ENCODER).read_text())
    weights = encoder.pop("template_weights", None)
    assert (weights is not None and len({*weights}) > 1) == (method == "maskclippp")
    templates = {"templates": "vild"} if weights else {}
    assert encoder == {"encoder": "pooled", "image_size": 64, **templates}

    clip = load_adapted(out)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    regions = np.zeros((2, 40, 48), bool)
    regions[0, :, :20] = regions[1, 10:12, 30:32] = True
    tower = build_region_tower(load_adapted(out), chosen)
    with torch.no_grad():
        trained = tower(whole_image(clip, pixels)[None], masks_on_grid(clip, regions)[None])[0, :-1]
    torch.testing.assert_close(encode_regions(clip, pixels, regions), trained, atol=1e-6, rtol=0)


def adapter_before(base: Path, run: RunFolders, folder: Path, method: str = "mask_adapter", **changes: Any) -> Path:
    """The folder of a training of no steps."""
    chosen = options(method, base, region_encoder="mask_adapter", **changes, epochs=0)
    return train(base, run, folder, chosen)


@pytest.mark.parametrize("method", OBJECTIVES)
@pytest.mark.parametrize("tower", ["vit", "convnext"])
def test_a_mask_adapter_learns_with_every_method_and_alone_with_its_own(
    base: Path, convnext: Path, run: RunFolders, tmp_path: Path, method: str, tower: str
) -> None:
    """The folder says so, stock open_clip loads it, and it encodes regions as the training does."""
    folder, size = (base, 48) if tower == "vit" else (convnext, 64)
    changes: dict[str, Any] = {"image_size": size, "region_encoder": "mask_adapter", "max_steps": 2}
    chosen = options(method, folder, **changes)
    before = adapter_before(folder, run, tmp_path / "before", method, image_size=size)
    out = train(folder, run, tmp_path / "out", chosen)
    learned = changed(before, out)
    of_adapter = {name for name in load_file(out / ADAPTER) if name in learned}
    assert {"fuse.weight", "maps.weight", "mask_conv1.weight", "blocks.2.layer_scale"} <= of_adapter
    assert bool(learned - of_adapter - {"logit_scale"}) == (method != "mask_adapter")
    assert ("logit_scale" in learned) == (method in ("regions", "maskclippp"))
    encoder = json.loads((out / REGION_ENCODER).read_text())
    assert (encoder["encoder"], encoder["image_size"], "start_block" in encoder) == ("mask_adapter", size, False)
    assert open_clip.create_model(f"local-dir:{out}") is not None

    clip, tower_again = load_adapted(out), build_region_tower(load_adapted(out), chosen)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    regions = np.zeros((2, 40, 48), bool)
    regions[0, :, :20] = regions[1, 10:12, 30:32] = True
    with torch.no_grad():
        trained = tower_again(whole_image(clip, pixels)[None], masks_on_grid(clip, regions)[None])[0, :-1]
    torch.testing.assert_close(encode_regions(clip, pixels, regions), trained, atol=1e-6, rtol=0)


def test_the_loss_of_a_mask_adapter_falls_and_its_gradients_reach_the_adapter_alone(
    base: Path, run: RunFolders
) -> None:
    """At lr, with weight decay on matrices alone, or at scale_lr where it is given; the gradient is clipped to 1.0."""
    chosen = options("mask_adapter", base, pairs="annotated", epochs=15, lr=1e-2, weight_decay=0.05)
    clip, world = load_adapted(base), World(0, 1, torch.device("cpu"))
    tower = build_region_tower(clip, chosen)
    loop = build_region_loop(clip, tower, read_run(run, chosen), 30, chosen, CropOptions(), Runtime(workers=0), world)
    assert loop.clip_norm == 1.0
    assert [(group["initial_lr"], group["weight_decay"]) for group in loop.optimizer.param_groups] == [
        (1e-2, 0.0),
        (1e-2, 0.05),
    ]
    step, losses = loop.make_step(0), []
    for number in range(30):
        loop.optimizer.zero_grad()
        losses.append(float(step(number).loss))
        loop.optimizer.step()
        loop.schedule.step()
    assert {name for name, p in tower.named_parameters() if p.grad is not None} == {
        name for name, _ in tower.named_parameters() if name.startswith("adapter.")
    }
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    both = options("regions", base, region_encoder="mask_adapter", scale_lr=1e-2)
    tower = build_region_tower(load_adapted(base), both)
    groups = region_optimizer(tower, torch.nn.Parameter(torch.ones(())), both).param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (1e-2, 0.0),
        (1e-2, 0.0),
        (1e-2, 0.2),
        (1e-3, 0.0),
        (1e-3, 0.2),
    ]


def test_a_training_goes_on_with_the_adapter_of_the_initial_clip(base: Path, run: RunFolders, tmp_path: Path) -> None:
    """The paper's order: the adapter alone, then more. Another region encoder leaves it out."""
    alone = train(base, run, tmp_path / "alone", options("mask_adapter", base))
    again = adapter_before(alone, run, tmp_path / "again", "regions", adapter_width=8)
    assert not changed(alone, again)
    other = train(alone, run, tmp_path / "other", options("regions", alone, epochs=0))
    assert not (other / ADAPTER).exists()


def test_the_attention_of_a_pooling_learns_with_that_of_the_blocks(tmp_path: Path) -> None:
    """SigLIP's probe itself stays, as the class token does, and so does its MLP, as those of the blocks do."""
    siglip = save("siglip", tmp_path)

    def trained(method: str) -> set[str]:
        tower = build_region_tower(load_adapted(siglip), options(method, siglip))
        names = (name for name, p in tower.named_parameters() if p.requires_grad and "attn_pool" in name)
        return {name.removeprefix("visual.trunk.attn_pool.") for name in names}

    assert trained("maskclippp") == {"q.weight", "kv.weight"}
    parts = ("q", "kv", "proj", "norm")
    assert trained("maft") == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    assert trained("regions") > trained("maft") | {"latent"}


def test_the_folder_says_what_it_is_made_for_and_stock_open_clip_loads_it(
    base: Path, run: RunFolders, tmp_path: Path
) -> None:
    chosen = options("maskclippp", base, region_encoder="biased_tokens", scale_lr=1e-2)
    out = train(base, run, tmp_path / "out", chosen)
    encoder = json.loads((out / REGION_ENCODER).read_text())
    log_bias = torch.tensor(encoder.pop("log_bias"))
    weights = tuple(encoder.pop("template_weights"))
    assert encoder == {"encoder": "biased_tokens", "start_block": 1, "image_size": 48, "templates": "vild"}
    assert log_bias.shape == (2, 2)
    assert (log_bias != -5).any()
    assert len(weights) == 14 and len(set(weights)) > 1
    card = (out / "README.md").read_text()
    assert "method maskclippp on mined regions" in card
    assert "masks from proposal_network (" in card and "`biased_tokens`" in card
    assert open_clip.create_model(f"local-dir:{out}") is not None
    loaded = load_adapted(out).regions
    assert loaded == RegionSettings("biased_tokens", 1, 48, tuple(map(tuple, log_bias.tolist())), "vild", weights)


@pytest.mark.parametrize(("pairs", "masks"), [("annotated", "annotated"), ("proposals", "annotated, proposal_network")])
def test_the_model_card_names_the_masks_that_were_learned_from(
    base: Path, run: RunFolders, tmp_path: Path, pairs: str, masks: str
) -> None:
    out = train(base, run, tmp_path / "out", options("maft", base, pairs=pairs, max_steps=1))
    assert f"masks from {masks} (" in (out / "README.md").read_text()


def test_names_are_embedded_with_the_template_weights_that_were_learned(
    base: Path, run: RunFolders, tmp_path: Path
) -> None:
    """Region times name is the weighted sum of its cosines with the templates; one template needs no weight."""
    clip = load_adapted(train(base, run, tmp_path / "out", options("maskclippp", base, scale_lr=1e-2)))
    weights = clip.regions.template_weights
    assert weights is not None
    region = torch.nn.functional.normalize(torch.randn(16, generator=torch.Generator().manual_seed(0)), dim=0)
    cosines = clip.encode_texts([form.format("kite") for form in TEMPLATES["vild"]]) @ region
    expected = sum(weight * float(cosine) for weight, cosine in zip(weights, cosines, strict=True))
    assert float(clip.embed_names(["kite"], "vild")[0] @ region) == pytest.approx(expected, abs=1e-6)
    vocabulary = build_vocabulary([["kite"], ["sea", "ocean"]], clip, "vild")
    assert torch.equal(vocabulary.texts, clip.embed_names(["kite", "sea", "ocean"], "vild"))
    assert vocabulary.network_texts is not None
    torch.testing.assert_close(vocabulary.network_texts.norm(dim=1), torch.ones(3))
    with pytest.raises(
        OvsegError, match=r"template_weights for the templates vild, not single; set --templates, or segment\.templates"
    ):
        clip.embed_names(["kite"], "single")
    single = load_adapted(train(base, run, tmp_path / "single", options("maskclippp", base, templates="single")))
    assert single.regions.template_weights is None


def test_no_steps_publish_the_untrained_region_encoder(base: Path, run: RunFolders, tmp_path: Path) -> None:
    out = train(base, run, tmp_path / "out", options("maft", base, epochs=0))
    assert not changed(base, out)
    assert json.loads((out / REGION_ENCODER).read_text())["encoder"] == "region_tokens"
    assert read_provenance(out).get("steps", []) == []


BIASED: dict[str, Any] = {"region_encoder": "biased_tokens", "scale_lr": 1e-2}


def test_a_training_goes_on_from_what_was_learned_beside_the_tower(base: Path, run: RunFolders, tmp_path: Path) -> None:
    """Of the same blocks and templates; without steps nothing changes at all, with whichever method."""
    first = train(base, run, tmp_path / "first", options("maskclippp", base, **BIASED))
    learned = load_adapted(first).regions
    assert learned.log_bias is not None and learned.template_weights is not None
    for method in ("maskclippp", "maft"):
        again = train(first, run, tmp_path / method, options(method, first, **BIASED, epochs=0))
        assert load_adapted(again).regions == learned and not changed(first, again)
    for changes, bias, weights in (
        ({}, True, True),
        ({"start_block": 2}, False, True),
        ({"templates": "none"}, True, False),
    ):
        tower = build_region_tower(load_adapted(first), options("maskclippp", first, **{**BIASED, **changes}))
        own = region_settings(tower)
        assert (own.log_bias == learned.log_bias) == bias
        assert (own.template_weights == learned.template_weights) == weights


def test_a_method_without_template_weights_learns_from_names_without_them(
    base: Path, run: RunFolders, tmp_path: Path
) -> None:
    """Its folder has none, so that they would be missing where the names are compared with regions."""
    first = train(base, run, tmp_path / "first", options("maskclippp", base, scale_lr=1e-2, max_steps=1))
    chosen = options("regions", first)
    clip, world = load_adapted(first), World(0, 1, torch.device("cpu"))
    tower, regions = build_region_tower(clip, chosen), read_run(run, chosen)
    step = build_region_loop(clip, tower, regions, 4, chosen, CropOptions(), Runtime(workers=0), world).make_step(0)
    assert isinstance(step, RegionStep)
    torch.testing.assert_close(step.texts[0], embed(regions.texts, clip.encode_texts, "vild"))


def test_maft_with_a_template_a_step_compares_regions_with_all_of_them(base: Path, run: RunFolders) -> None:
    losses = []
    for templates in ("vild", "random-per-step"):
        chosen = options("maft", base, templates=templates)
        clip, world = load_adapted(base), World(0, 1, torch.device("cpu"))
        tower, regions = build_region_tower(clip, chosen), read_run(run, chosen)
        loop = build_region_loop(clip, tower, regions, 4, chosen, CropOptions(), Runtime(workers=0), world)
        losses.append(float(loop.make_step(0)(0).loss))
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


def test_a_teacher_sees_crops_filled_with_its_own_mean(
    base: Path, run: RunFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = save("timm class token", tmp_path / "teacher")
    color, of_student = (fill_color("mean", load_adapted(folder).mean.tolist()) for folder in (teacher, base))
    assert color is not None and of_student is not None and not np.array_equal(color, of_student)
    read: list[RegionDataset] = []

    def recorded(data: RegionDataset, *arguments: int) -> Iterator[RegionBatch]:
        read.append(data)
        return read_regions(data, *arguments)

    monkeypatch.setattr(module, "read_regions", recorded)
    train(base, run, tmp_path / "out", options("distil", base, teacher=teacher, max_steps=1))
    assert read[0].teacher is not None and np.array_equal(read[0].teacher.color, color)  # type: ignore[arg-type]


def test_a_teacher_that_sees_whole_images_is_refused(base: Path, run: RunFolders, tmp_path: Path) -> None:
    encoder = train(base, run, tmp_path / "maft", options("maft", base, epochs=0))
    with pytest.raises(OvsegError, match=r"finetune\.teacher=.*region_tokens, and a teacher sees crops"):
        train(base, run, tmp_path / "out", options("distil", base, teacher=encoder))


@pytest.mark.parametrize("method", ["maft", "regions"])
def test_a_batch_without_a_region_is_no_error(base: Path, run: RunFolders, tmp_path: Path, method: str) -> None:
    """Images that have changed since they were indexed have none."""
    for image in (broken := write_run(tmp_path / "run")).images.iterdir():
        image.write_bytes(b"no image")
    out = train(base, broken, tmp_path / "out", options(method, base, max_steps=1))
    assert load_adapted(out).regions.encoder == "region_tokens"


@pytest.mark.parametrize("method", ["maft", "distil", "mask_adapter"])
def test_resume_equals_uninterrupted_bit_for_bit(
    base: Path, run: RunFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    whole = train(base, run, tmp_path / "whole", options(method, base))
    real = RegionStep.__call__
    calls: list[int] = []

    def fails_at_third(self: RegionStep, number: int) -> StepResult:
        calls.append(number)
        if len(calls) == 3:
            raise RuntimeError("power cut")
        return real(self, number)

    monkeypatch.setattr(RegionStep, "__call__", fails_at_third)
    with pytest.raises(RuntimeError, match="power cut"):
        train(base, run, tmp_path / "cut", options(method, base), checkpoint_seconds=0)
    train(base, run, tmp_path / "cut", options(method, base), checkpoint_seconds=0)
    assert calls == [0, 1, 2, 2, 3]
    assert not changed(whole, tmp_path / "cut")
    assert (whole / ADAPTER).is_file() == (tmp_path / "cut" / ADAPTER).is_file() == (method == "mask_adapter")


def test_a_teacher_encodes_a_region_once_for_all_epochs_and_trainings(
    base: Path, run: RunFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four steps see every image twice; the second training, of other steps, gives what it gives without stored vectors."""
    encoded: list[int] = []
    real = Clip.encode_crops

    def counted(self: Clip, crops: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        encoded.append(len(crops))
        return real(self, crops, masks)

    monkeypatch.setattr(Clip, "encode_crops", counted)
    runtime = Runtime(workers=0, work=tmp_path / "work")
    for name, chosen in (("first", options("distil", base)), ("other", options("distil", base, lr=2e-3))):
        adapt_regions(base, run, tmp_path / name, runtime, chosen, CropOptions(), SOURCE)
    assert sum(encoded) == 4 * IMAGES
    assert not changed(train(base, run, tmp_path / "alone", options("distil", base, lr=2e-3)), tmp_path / "other")


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        *((method, changes) for method in OF_TOWERS for changes in ({}, POOLED)),
        ("regions", {"region_encoder": "mask_adapter"}),
        ("mask_adapter", {}),
        ("mask_adapter", {**POOLED, "region_encoder": "mask_adapter"}),
    ],
)
def test_micro_batches_give_the_same_gradients(
    base: Path, convnext: Path, run: RunFolders, method: str, changes: dict[str, Any]
) -> None:
    folder = convnext if changes.get("image_size") else base
    chosen = options(method, folder, **changes)
    gradients = []
    for micro_batch in (None, 1):
        clip, runtime = load_adapted(folder), Runtime(workers=0, micro_batch=micro_batch)
        tower, world = build_region_tower(clip, chosen), World(0, 1, torch.device("cpu"))
        loop = build_region_loop(clip, tower, read_run(run, chosen), 4, chosen, CropOptions(), runtime, world)
        loop.make_step(0)(0)
        gradients.append({name: p.grad for name, p in tower.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients[0].values())
    assert largest > 0
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5 * largest, rtol=1e-3, msg=name)


def test_loader_processes_change_nothing(base: Path, run: RunFolders, tmp_path: Path) -> None:
    alone = train(base, run, tmp_path / "alone", options("regions", base))
    assert not changed(alone, train(base, run, tmp_path / "two", options("regions", base), workers=2))


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("distil", {"teacher": None}, r"finetune\.method=distil needs finetune\.teacher"),
        ("maft", {"teacher": Path("models/crops")}, "uses no teacher; set finetune.teacher to null"),
        ("maft", {"start_block": 3}, "start_block=3: the image tower has 3 blocks"),
        ("maft", {"image_size": 50}, "multiple of the patch size"),
        ("maskclippp", {"region_encoder": "pooled"}, "VisionTransformer is no ConvNeXt.* use region_tokens"),
        ("mask_adapter", {"region_encoder": "pooled"}, r"region_encoder=pooled has none; set it to mask_adapter"),
        ("mask_adapter", {"image_size": 50}, "multiple of the patch size"),
        ("maft", {"batch_size": 9}, r"finetune\.batch_size=9 is more than the 8 images"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy(
    base: Path, run: RunFolders, tmp_path: Path, method: str, changes: dict[str, Any], message: str
) -> None:
    if changes.get("teacher"):
        changes = {"teacher": base}
    with pytest.raises(OvsegError, match=message):
        train(base, run, tmp_path / "out", options(method, base, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "ConvNeXt is not a plain ViT.* pooled"),
        ({**POOLED, "image_size": 50}, "50 x 50 pixels cannot be cut into cells of 32 x 32"),
    ],
)
def test_what_does_not_fit_a_convnext_is_refused_with_a_remedy(
    convnext: Path, run: RunFolders, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(OvsegError, match=message):
        train(convnext, run, tmp_path / "out", options("maskclippp", convnext, **changes))


def test_soft_coverage_is_trained_kept_in_the_folder_and_refused_for_another_encoder(
    base: Path, run: RunFolders, tmp_path: Path
) -> None:
    half, soft = (
        train(base, run, tmp_path / coverage, options("regions", base, max_steps=1, coverage=coverage))
        for coverage in ("half", "soft")
    )
    assert load_adapted(half).regions.coverage == "half" and load_adapted(soft).regions.coverage == "soft"
    assert sha256_path(half / WEIGHTS) != sha256_path(soft / WEIGHTS)
    with pytest.raises(
        OvsegError, match=r"finetune\.coverage=soft .* region_tokens, not biased_tokens; set it to half"
    ):
        train(base, run, tmp_path / "x", options("regions", base, coverage="soft", region_encoder="biased_tokens"))


def test_an_empty_pair_table_is_named(base: Path, run: RunFolders, tmp_path: Path) -> None:
    empty = replace(run, pairs=write_run(tmp_path / "empty", pairs=False).pairs)
    with pytest.raises(OvsegError, match=r"finetune\.pairs=mined"):
        train(base, empty, tmp_path / "out", options("maft", base))
    train(base, empty, tmp_path / "annotated", options("maft", base, pairs="annotated", max_steps=1))


def test_crops_are_not_trained_after_a_region_encoder_but_it_is_copied(
    base: Path, run: RunFolders, shards: Path, tmp_path: Path
) -> None:
    encoder = train(base, run, tmp_path / "maft", options("maft", base, max_steps=1))
    work = Runtime(workers=0, work=tmp_path / "work")
    with pytest.raises(OvsegError, match=r"prompt trains on crops, but .* region_tokens; set prompt\.epochs=0"):
        adapt(encoder, shards, tmp_path / "out", work, PromptOptions(epochs=1, batch_size=16), CropOptions(), SOURCE)
    adapt(encoder, shards, tmp_path / "copy", work, PromptOptions(epochs=0), CropOptions(), SOURCE)
    assert load_adapted(tmp_path / "copy").regions == load_adapted(encoder).regions
