"""Training the proposal network on annotated masks of a closed vocabulary (paper 3.1, A.1; MaskFormer's own losses).

Shapes: B images of a step on all ranks, K classes of the training vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from ovseg.clip.adapted import load_adapted
from ovseg.core import hashing, tables
from ovseg.core.errors import OvsegError
from ovseg.core.image_records import ImageRecord, read_image_records
from ovseg.core.options import ProposalNetworkOptions
from ovseg.core.vocabulary import embed
from ovseg.datasets.classes import find_table, read_classes
from ovseg.datasets.coco import open_coco
from ovseg.datasets.references import category_names
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.proposals.backbone import identify_backbone
from ovseg.proposals.ground_truth import CLASSES, annotated_images, check_annotations
from ovseg.proposals.network import ProposalNetwork, build_network
from ovseg.proposals.network_folder import (
    check_text_tower,
    copy_network,
    load_network,
    probe_text_tower,
    save_network,
)
from ovseg.training.annotated_dataset import AnnotatedSegmentationDataset, read_scenes
from ovseg.training.distributed import World, loader_workers, wrap_for_ranks
from ovseg.training.loop import Step, StepResult, TrainingLoop, explain_out_of_memory, warmup_poly
from ovseg.training.mask_objective import MaskObjective, mask_step
from ovseg.training.run import Training, publish_training

log = logging.getLogger("ovseg")

NAME = "proposal_network"
WITHOUT_WEIGHT_DECAY = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
EMBEDDINGS = (
    "relative_position_bias_table",
    "no_object",
)  # parameters that are embeddings without being an `nn.Embedding`


def train_proposal_network(
    index: Path, images: Path, clip: Path, out: Path, runtime: Runtime, options: ProposalNetworkOptions
) -> None:
    """Train a proposal network, and publish its folder (see `proposals.network_folder`) with `training.tsv` to `out`.

    A training of 0 steps publishes the network of `options.init` unchanged, or without one the untrained network. Run under
    torchrun, every rank calls this. A killed run continues from its last checkpoint.

    Args:
        index: the table `index`.
        images: the folder of the index's images.
        clip: the folder of the CLIP whose text tower encodes the class names.
        out: the folder of the result.
        runtime: devices, workers, micro-batch, scratch folder.
        options: the parameters. Classes of a class table that are not "seen" are left out.

    Raises:
        OvsegError: an input is missing or does not fit, among them a network to copy that was trained with another text tower
            than that of `clip`; the loss is not a number; or memory or disk is full.
        KeyboardInterrupt: the run was stopped.
    """
    table = find_class_table(options.annotations, options.classes)
    backbone = asdict(identify_backbone(options.backbone)) if options.pretrained and options.init is None else None
    key = step_key(
        NAME,
        __name__,
        index=tables.fingerprint(index, "index"),
        annotations=tables.annotations_hash(options.annotations),
        clip=tables.content_hash(clip),
        init=None if options.init is None else tables.content_hash(options.init),
        parameters=options.model_dump(mode="json", exclude={"init", "annotations", "classes"}),
        classes=table and hashing.sha256_file(table),
        backbone=backbone and backbone["sha256"],
    )

    def build(world: World, scratch: Path) -> Training:
        text_tower = load_adapted(clip, str(world.device), prompts=False)
        init = None
        if options.init is not None:
            init = load_network(options.init)
            try:
                check_text_tower(init, text_tower, options.init, clip)
            except OvsegError as problem:
                if not options.steps:
                    raise
                log.warning("%s: the network to start from knows other texts: %s", NAME, problem)
            if not options.steps:
                return Training(partial(copy_network, options.init), None)
        names = vocabulary(options.annotations, scratch, table)
        texts = embed(names, text_tower.encode_texts, options.templates)
        model = build_model(options, len(names), text_tower.width, init).to(world.device)
        model.class_predictor.text_embeddings = texts.to(world.device)
        metadata = {
            "names": names,
            "templates": options.templates,
            "probe": probe_text_tower(text_tower),
            "licence": options.licence,
            "init": None if init is None else init.metadata,
            "recipe": options.model_dump(mode="json", exclude={"init", "annotations", "licence"}),
            **({"backbone": backbone} if backbone else {}),
        }
        loop = None
        if options.steps:
            check_annotations(options.annotations, scratch, index, labels=True)
            records = [record for part in tables.parts(index) for record in read_image_records(part, images)]
            annotated = annotated_images(options.annotations, scratch, records)
            if without := len(records) - len(annotated):
                log.info("%s: %d of %d images have no annotations and are left out", NAME, without, len(records))
            data = build_dataset(options, annotated, names, table, scratch)
            data.check_sample(runtime.max_dropped)
            loop = build_loop(model, data, options, runtime, world)
        sides = options.short_side, options.long_side
        return Training(lambda folder: save_network(model, folder, metadata, *sides), loop)

    publish_training(key, build, out, runtime)


def find_class_table(annotations: Path, classes: str | None) -> Path | None:
    """Find the class table of annotations.

    Args:
        annotations: a folder of label maps, or a COCO JSON file.
        classes: the name or file of the class table; None for the folder's own classes.json.

    Returns:
        the file of the class table; None for a JSON file, which names its categories itself.

    Raises:
        OvsegError: the class table is missing.
    """
    if not annotations.is_dir():
        return None
    table = find_table(classes) if classes else annotations / CLASSES
    if not table.is_file():
        raise OvsegError(
            f"{table} is missing: set proposal_network.classes to the class table that the label maps are numbered by"
        )
    return table


def vocabulary(annotations: Path, scratch: Path, table: Path | None) -> list[str]:
    """Read the names of the classes to train on, as `ground_truth` labels them.

    Args:
        annotations: a folder of label maps, or a COCO JSON file.
        scratch: the folder of the JSON's streamed copy.
        table: the class table of label maps, see `find_class_table`.

    Raises:
        OvsegError: a JSON names no categories, or two by the same name.
    """
    if table is not None:
        return [entry.names[0] for entry in read_classes(table) if entry.seen]
    store = open_coco(annotations, scratch / f"{annotations.stem}.sqlite")
    return list(category_names(annotations, store, unique=True).values())


def build_dataset(
    options: ProposalNetworkOptions,
    images: Sequence[ImageRecord],
    names: Sequence[str],
    table: Path | None,
    scratch: Path,
) -> AnnotatedSegmentationDataset:
    """Make the annotated images to train on.

    Args:
        options: the parameters of crops and colors, and the annotations.
        images: the images.
        names: the classes of the training vocabulary.
        table: the class table of label maps, see `find_class_table`.
        scratch: the folder of the annotations' streamed copy.
    """
    return AnnotatedSegmentationDataset(
        images,
        options.annotations,
        scratch,
        {name: number for number, name in enumerate(names)},
        crop_size=options.crop_size,
        scales=(options.min_scale, options.max_scale),
        color_jitter=options.color_jitter,
        seed=options.seed,
        table=table,
    )


def build_model(options: ProposalNetworkOptions, classes: int, width: int, init: ProposalNetwork | None = None) -> Any:
    """Make the network that is trained: with new weights from `options.seed`, or with those of `init`.

    Args:
        options: the parameters.
        classes: K, for the loss.
        width: the width of CLIP's joint embedding space.
        init: the network of the folder `options.init`.

    Raises:
        OvsegError: the network `init` has another architecture, or dilations, which cannot be trained.
    """
    torch.manual_seed(options.seed)
    model = build_network(
        options.backbone,
        pretrained=options.pretrained and init is None,
        num_queries=options.num_queries,
        hidden_dim=options.hidden_dim,
        decoder_layers=options.decoder_layers,
        dropout=options.dropout,
        text_proj_dim=options.text_proj_dim,
        width=width,
        classes=classes,
    )
    if init is not None:
        _load_weights(model, init, options.init)
    return model


def _load_weights(model: Any, init: ProposalNetwork, folder: Path | None) -> None:
    """Load the weights of a trained network, which comes from a folder, into a new one of the same architecture."""
    if init.metadata.get("dilations"):
        raise OvsegError(
            f"{folder} is a converted ResNet with dilations, which can be used but not trained: set proposal_network.steps to 0"
        )
    weights, own = init.model.state_dict(), model.state_dict()
    weights["criterion.empty_weight"] = own["criterion.empty_weight"]  # as many as there are classes
    differing = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if differing or len(weights) != len(own):
        raise OvsegError(
            f"{folder} does not fit section proposal_network of params.yaml: {len(differing)} weights differ in shape, among "
            f"them {', '.join(differing[:3])}. Set backbone, num_queries, hidden_dim, decoder_layers and text_proj_dim as in "
            "that folder"
        )
    model.load_state_dict(weights)


def build_loop(
    model: Any, data: AnnotatedSegmentationDataset, options: ProposalNetworkOptions, runtime: Runtime, world: World
) -> TrainingLoop:
    """Make the training of a network: optimizer, schedule, batches, and what a step computes.

    Args:
        model: the network; it is trained in place.
        data: the annotated images.
        options: the parameters of the training.
        runtime: workers and micro-batch.
        world: the process group.

    Raises:
        OvsegError: the batch cannot be divided among the ranks.
    """
    local_size, rest = divmod(options.batch_size, world.size)
    if rest:
        raise OvsegError(
            f"proposal_network.batch_size={options.batch_size} cannot be divided among {world.size} processes"
        )
    if world.device.type == "cuda" and world.size > 1:
        # timm's keeps the activations inside of its own layers, torch's drops them
        model = convert_sync_batchnorm(model)
    objective = MaskObjective(model.train(), options.precision).to(world.device)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, options.lr, options.backbone_lr_multiplier, options.weight_decay),
        lr=options.lr,
        fused=True,
    )
    # on a CPU the network needs all cores
    workers = loader_workers(runtime.workers) if world.device.type == "cuda" else 0
    micro_size = min(runtime.micro_batch or options.batch_size, local_size)

    def make_step(steps_done: int) -> Step:
        batches = read_scenes(data, options.batch_size, world.rank, world.size, steps_done, workers)
        module = wrap_for_ranks(objective, world)

        def step(number: int) -> StepResult:
            # of dropout; the same when a training is continued
            torch.manual_seed(int(options.seed * 1_000_003 + number * world.size + world.rank))
            scenes = next(batches)
            with explain_out_of_memory(NAME, micro_size):
                loss = mask_step(objective, module, scenes, micro_size, world)
            return StepResult(loss, options.batch_size, [scene["key"] for scene in scenes], {})

        return step

    return TrainingLoop(
        steps=options.steps,
        weights=model,
        parameters=dict(model.named_parameters()),
        optimizer=optimizer,
        schedule=warmup_poly(optimizer, options.steps, options.warmup_steps),
        make_step=make_step,
        clip_norm=options.clip_norm,
    )


def parameter_groups(
    model: nn.Module, lr: float, backbone_lr_multiplier: float, weight_decay: float
) -> list[dict[str, object]]:
    """Make the parameter groups of AdamW: no weight decay for normalization layers and embeddings, as in MaskFormer.

    The position biases of a Swin backbone count as embeddings; biases of linear layers and convolutions do decay.

    Args:
        model: the network.
        lr: the peak learning rate.
        backbone_lr_multiplier: the factor on the learning rate for the backbone.
        weight_decay: the weight decay of all other parameters.
    """
    without_decay = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, WITHOUT_WEIGHT_DECAY)
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        plain = id(parameter) in without_decay or name.endswith(EMBEDDINGS)
        groups.setdefault((".encoder." in name, plain), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * (backbone_lr_multiplier if backbone else 1),
            "weight_decay": 0.0 if plain else weight_decay,
        }
        for (backbone, plain), parameters in groups.items()
    ]
