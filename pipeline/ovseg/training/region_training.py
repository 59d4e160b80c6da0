"""Training CLIP's image tower as a region encoder, on whole images (MAFT, MaskCLIP++, and both on mined pairs)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from ovseg.clip.adapted import load_adapted, read_provenance, save_adapted
from ovseg.clip.embedding_files import FOLDER
from ovseg.clip.load import Clip
from ovseg.clip.regions import grid_side
from ovseg.clip.save import model_config
from ovseg.core import crops, hashing, tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import CropOptions, FinetuneOptions, HeldoutOptions, Precision, RegionPairs
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.training.checkpoint import TrainableParameters
from ovseg.training.distributed import World, loader_workers, split_batch, wrap_for_ranks
from ovseg.training.loop import Step, TrainingLoop
from ovseg.training.monitor import heldout_key, heldout_monitor
from ovseg.training.objectives import OBJECTIVES, Objective
from ovseg.training.region_dataset import RegionDataset, TeacherInput, read_regions
from ovseg.training.region_sources import MINED_SOURCES, RegionTables, read_region_tables
from ovseg.training.region_step import RegionStep
from ovseg.training.region_tower import RegionTower, build_region_tower, is_made_for, region_settings
from ovseg.training.run import Training, publish_training
from ovseg.training.texts import embed_nouns, embed_synonyms
from ovseg.training.tower import ADAM_BETAS, MAX_LOG_SCALE


@dataclass(frozen=True)
class RunFolders:
    """Where a mining run is.

    Attributes:
        index, proposals, pairs: the folders of the tables of these names.
        images: the folder that the files of the index are relative to.
    """

    index: Path
    proposals: Path
    pairs: Path
    images: Path


def adapt_regions(
    init: Path,
    run: RunFolders,
    out: Path,
    runtime: Runtime,
    options: FinetuneOptions,
    crop: CropOptions,
    source: Mapping[str, str | None],
    heldout: HeldoutOptions | None = None,
) -> None:
    """Train a region encoder from `init`, and publish it with region_encoder.json, a model card and `training.tsv` to `out`.

    A training of 0 steps publishes `init` with the untrained region encoder, or unchanged if it is made for this one. Run under
    torchrun, every rank calls this. A killed run continues from its last checkpoint, to the same weights with any number of
    loader processes.

    Args:
        init: the folder of the CLIP to start from.
        run: the mining run whose images and regions are trained on.
        out: the folder of the result.
        runtime: devices, workers, micro-batch, scratch folder.
        options: the parameters; `options.init` was resolved into `init` by the caller, and `options.method` is not "crops".
        crop: the crop recipe of the teacher.
        source: "mask_source" of the proposals and "mask_licence", for the model card.
        heldout: the masks that `options.heldout_every` measures on; None measures nothing.

    Raises:
        OvsegError: tables, model, teacher or parameters cannot be used; the loss is not a number; memory or disk is full.
        KeyboardInterrupt: the run was stopped.
    """
    check_region_options(options)
    tables_ = {name: tables.fingerprint(getattr(run, name), name) for name in ("index", "proposals")}
    tables_ |= {"pairs": tables.fingerprint(run.pairs, "pairs")} if options.pairs in MINED_SOURCES else {}
    teacher = None if options.teacher is None else tables.content_hash(options.teacher)
    parameters = options.model_dump(mode="json", exclude={"init", "shards", "teacher"}) | crop.model_dump(mode="json")
    source = {**source, "mask_source": name_masks(options.pairs, source["mask_source"])}
    key = step_key(
        "finetune",
        __name__,
        init=tables.content_hash(init),
        teacher=teacher,
        parameters=parameters,
        source=dict(source),
        **tables_,
        **heldout_key(options.heldout_every, heldout),
    )
    record = {"stage": "finetune", "tables": tables_, "teacher": teacher, **source, "recipe": parameters}

    def build(world: World, _scratch: Path) -> Training:
        clip, provenance = load_adapted(init, str(world.device)), read_provenance(init)
        tower, loop = build_region_tower(clip, options), None
        regions = read_run(run, options) if options.epochs and options.max_steps != 0 else None
        if regions and (steps := count_region_steps(len(regions.images), options)):
            torch.manual_seed(options.seed)
            loop = build_region_loop(clip, tower, regions, steps, options, crop, runtime, world)

            def now() -> Clip:
                learned = copy.deepcopy(tower.texts.pseudo_text)  # without what drops out attention in training
                pseudo_text = None if learned is None else learned.eval()
                return replace(clip, regions=region_settings(tower), adapter=tower.adapter, pseudo_text=pseudo_text)

            monitor = heldout_monitor("finetune", options.heldout_every, heldout, now(), now, crop, world)
            loop = replace(loop, monitor=monitor)
            provenance["steps"] = [*provenance.get("steps", []), record]
        kept = loop is None and is_made_for(clip, tower.settings)
        config = model_config(f"local-dir:{init}")

        def save(folder: Path) -> None:
            save_adapted(
                clip.model,
                config,
                None,
                provenance,
                folder,
                clip.tokenizer,
                text_prompts=clip.text_prompts,
                regions=clip.regions if kept else region_settings(tower),
                adapter=tower.adapter,
                pseudo_text=clip.pseudo_text if kept else tower.texts.pseudo_text,
            )

        return Training(save, loop)

    publish_training(key, build, out, runtime)


def name_masks(pairs: RegionPairs, proposals: str | None) -> str | None:
    """Name the masks that a training learns from.

    Args:
        pairs: what it is trained on.
        proposals: what made the proposals.
    """
    if pairs == "mined":
        return proposals
    return "annotated" if pairs == "annotated" else f"annotated, {proposals}"


def check_region_options(options: FinetuneOptions) -> Objective:
    """Return the objective of `options.method`, after checking that a teacher is given where one is needed.

    Raises:
        OvsegError: it is not, or it is given where the method has no use for it; or the method trains an adapter, and the
            region encoder has none; or pseudo-texts are not for the method or the region encoder.
    """
    objective = OBJECTIVES[options.method]
    if problem := options.psm_problem:
        raise OvsegError(problem)
    if objective.trains is None and options.region_encoder != "mask_adapter":
        raise OvsegError(
            f"finetune.method={options.method} trains a mask adapter alone, and finetune.region_encoder="
            f"{options.region_encoder} has none; set it to mask_adapter, or take finetune.method=regions"
        )
    if objective.teacher == "needed" and options.teacher is None:
        raise OvsegError(
            f"finetune.method={options.method} needs finetune.teacher, the folder of a CLIP that is finetuned on crops"
        )
    if objective.teacher == "unused" and options.teacher is not None:
        raise OvsegError(f"finetune.method={options.method} uses no teacher; set finetune.teacher to null")
    return objective


def read_run(run: RunFolders, options: FinetuneOptions) -> RegionTables:
    """Read what `options.pairs` needs of a mining run; see `read_region_tables` for the errors."""
    return read_region_tables(run.index, run.images, run.proposals, run.pairs, options.pairs)


def count_region_steps(images: int, options: FinetuneOptions) -> int:
    """Count the optimizer steps of a whole training on this many images.

    Raises:
        OvsegError: there are fewer images than one batch has.
    """
    if not options.epochs or options.max_steps == 0:
        return 0
    if images < options.batch_size:
        raise OvsegError(
            f"finetune.batch_size={options.batch_size} is more than the {images} images with regions; set it to less"
        )
    steps = options.epochs * (images // options.batch_size)
    return steps if options.max_steps is None else min(steps, options.max_steps)


def build_region_loop(
    clip: Clip,
    tower: RegionTower,
    regions: RegionTables,
    steps: int,
    options: FinetuneOptions,
    crop: CropOptions,
    runtime: Runtime,
    world: World,
) -> TrainingLoop:
    """Make the training of a region encoder: optimizer, schedule, batches, and what a step computes.

    Args:
        clip: the CLIP.
        tower: its image tower, see `build_region_tower`.
        regions: images, regions and texts.
        steps: the number of optimizer steps.
        options: the parameters of the training.
        crop: the crop recipe of the teacher.
        runtime: workers and micro-batch.
        world: the process group.

    Raises:
        OvsegError: the batch cannot be divided, or the teacher cannot be loaded or has another joint width.
    """
    objective = check_region_options(options)
    synonyms: list[list[int]] | None = None
    if objective.weighs_templates:
        texts, synonyms = embed_synonyms(regions.texts, clip, options.templates)
    else:  # without the template weights of an earlier training, which this one does not keep
        texts = embed_nouns(regions.texts, replace(clip, regions=region_settings(tower)), options.templates)
    learned = tower.texts.template_weights
    weights = torch.ones(len(texts)) if learned is None else learned.values
    pseudo_text = tower.texts.pseudo_text
    teacher = None if options.teacher is None else _load_teacher(options.teacher, clip, world, options.precision)
    given = None
    if teacher is not None:
        color = crops.fill_color(crop.fill, teacher.mean.tolist())
        given = TeacherInput(teacher.size, color, crop.antialias, _teacher_folder(options, crop, runtime, world))
    grid = grid_side(tower.visual, region_settings(tower), options.image_size)
    data = RegionDataset(regions, options.image_size, grid, options.seed, given, objective.overlaps)
    log_scale = cast(nn.Parameter, clip.model.logit_scale)
    scaled = options.method in ("regions", "maskclippp") and pseudo_text is None
    log_scale.requires_grad_(options.logit_scale == "train" and scaled)
    workers = loader_workers(runtime.workers)
    _, micro_size = split_batch("finetune", options.batch_size, world, runtime.micro_batch)
    frozen = tower.frozen_copy() if objective.frozen else None

    def make_step(steps_done: int) -> Step:
        return RegionStep(
            objective=objective,
            tower=wrap_for_ranks(tower, world),
            frozen=frozen,
            teach=None if teacher is None else teacher.encode_crops,
            log_scale=log_scale,
            texts=texts.to(world.device),
            synonyms=synonyms,
            template_weights=weights.to(world.device),
            pseudo_text=pseudo_text,
            batches=read_regions(data, options.batch_size, world.rank, world.size, steps_done, workers),
            micro_size=micro_size,
            options=options,
            world=world,
        )

    trained = {key: p for key, p in tower.named_parameters() if p.requires_grad} | {"logit_scale": log_scale}
    trained |= tower.texts.parameters()
    optimizer = region_optimizer(tower, log_scale, options)
    return TrainingLoop(
        steps=steps,
        weights=TrainableParameters(trained),
        parameters=trained,
        optimizer=optimizer,
        schedule=objective.schedule(optimizer, steps, options.warmup_steps),
        make_step=make_step,
        after_step=partial(_clamp, log_scale, max(MAX_LOG_SCALE, float(log_scale.detach()))),
        clip_norm=objective.clip_norm,
    )


def region_optimizer(tower: RegionTower, log_scale: nn.Parameter, options: FinetuneOptions) -> AdamW:
    """Make AdamW: the image tower at `options.lr`; what is beside it, such as an adapter or the logit scale, at
    `options.scale_lr`.

    Its epsilon is torch's, 1e-8: CLIP's 1e-6 is not small beside a gradient that is clipped to a norm of 0.01.
    """
    named = [p for p in tower.visual.parameters() if p.requires_grad]
    learned = tower.texts.template_weights
    weights = None if learned is None else learned.values
    others = [p for p in (tower.log_bias, weights, log_scale) if p is not None and p.requires_grad]
    modules = [] if tower.adapter is None else list(tower.adapter.parameters())
    modules += tower.texts.of_pseudo_text().values()
    scale_lr = options.scale_lr or options.lr
    groups = [
        {"params": others, "lr": scale_lr, "weight_decay": 0.0},
        {"params": [p for p in modules if p.ndim < 2], "lr": scale_lr, "weight_decay": 0.0},
        {"params": [p for p in modules if p.ndim >= 2], "lr": scale_lr, "weight_decay": options.weight_decay},
        {"params": [p for p in named if p.ndim < 2], "lr": options.lr, "weight_decay": 0.0},
        {"params": [p for p in named if p.ndim >= 2], "lr": options.lr, "weight_decay": options.weight_decay},
    ]
    return AdamW([group for group in groups if group["params"]], betas=ADAM_BETAS, fused=True)


def _load_teacher(folder: Path, clip: Clip, world: World, precision: Precision) -> Clip:
    teacher = load_adapted(folder, str(world.device), precision)
    if teacher.regions.encoder != "crops":
        raise OvsegError(
            f"finetune.teacher={folder} is made for the region encoder {teacher.regions.encoder}, and a teacher sees crops; "
            "take a CLIP that was finetuned on crops"
        )
    if teacher.width != clip.width:
        raise OvsegError(
            f"finetune.teacher={folder} has embeddings of width {teacher.width}, the CLIP to train {clip.width}; take a "
            "teacher that was finetuned from the same base"
        )
    return teacher


def _teacher_folder(options: FinetuneOptions, crop: CropOptions, runtime: Runtime, world: World) -> Path:
    """Where the vectors of the teacher are kept, named after all that they depend on beside images and masks."""
    assert options.teacher is not None
    key = step_key(
        "teacher",
        "ovseg.clip.load",
        clip=tables.content_hash(options.teacher),
        precision=options.precision,
        crop=crop.model_dump(mode="json"),
        device=world.device.type,
    )
    return runtime.work / FOLDER / hashing.fingerprint(key=key.fingerprint, code=key.code_hash)


def _clamp(log_scale: Tensor, largest: float) -> None:
    if log_scale.requires_grad:
        with torch.no_grad():
            log_scale.clamp_(0, largest)
