"""Training the proposal network on annotated masks of a closed vocabulary (paper 3.1, A.1; MaskFormer's own losses).

B images of a step on all ranks, S side of a crop, K classes of the training vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ovseg.clip.adapted import load_adapted
from ovseg.clip.load import Clip
from ovseg.core import crops, hashing, tables
from ovseg.core.errors import OvsegError
from ovseg.core.image_records import ImageRecord, read_image_records
from ovseg.core.vocabulary import Templates, embed
from ovseg.datasets.classes import find_table, read_classes
from ovseg.datasets.coco import open_coco
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.units import Counts, Scratch, commit, published, scratch_folder
from ovseg.proposals.backbone import identify_backbone
from ovseg.proposals.ground_truth import CLASSES
from ovseg.proposals.network import IMAGENET_MEAN, IMAGENET_STD, build_network
from ovseg.proposals.network_folder import load_network, probe_text_tower, save_network
from ovseg.training.annotated_dataset import AnnotatedSegmentationDataset, Scene, scenes
from ovseg.training.checkpoint import Checkpoint
from ovseg.training.distributed import World, all_reduce_sum, barrier, distributed_context
from ovseg.training.loop import History, StepResult, train, warmup_poly, write_curves
from ovseg.training.tower import autocast_context

log = logging.getLogger("ovseg")

BATCH = 256  # texts in one forward pass
NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)


@dataclass(frozen=True)
class ProposalNetworkRecipe:
    """How a proposal network is made; the parameters of the stage `proposal_network`.

    Attributes:
        backbone, pretrained, num_queries, hidden_dim, decoder_layers, dropout, text_proj_dim: see `network.build_network`.
        templates: of the classes' texts.
        steps: of the optimiser; 0 passes `init` through.
        batch_size: B.
        crop_size: S, in pixels.
        min_scale, max_scale, colour: see `annotated.augment`.
        short_side, long_side: images are resized to them when the network is used.
        lr: of AdamW.
        backbone_lr_multiplier: the backbone's rate as a share of it.
        weight_decay: of all but normalisation and embeddings.
        warmup_steps: of the rate, which then falls as (1 - t)^0.9.
        clip_norm: longest gradient.
        precision: "bf16" (autocast) or "fp32".
        seed: of weights, order, crops and dropout.
        classes: class table of annotations that are maps, see `find_table`; None for the folder's own classes.json.
    """

    backbone: str
    pretrained: bool
    num_queries: int
    hidden_dim: int
    decoder_layers: int
    dropout: float
    text_proj_dim: int
    templates: Templates
    steps: int
    batch_size: int
    crop_size: int
    min_scale: float
    max_scale: float
    color_jitter: bool
    short_side: int
    long_side: int
    lr: float
    backbone_lr_multiplier: float
    weight_decay: float
    warmup_steps: int
    clip_norm: float
    precision: Literal["fp32", "bf16"]
    seed: int
    classes: str | None = None


def train_proposal_network(
    index: Path,
    images: Path,
    annotations: Path,
    clip: Path,
    init: Path | None,
    out: Path,
    runtime: Runtime,
    recipe: ProposalNetworkRecipe,
    licence: str | None,
) -> None:
    """Train a proposal network and write its folder (see `proposals.network_folder`) and `training.tsv` to `out`.

    Run under torchrun, every rank calls this. A killed run continues from its last checkpoint.

    Args:
        index, images: the table `index`, and the folder of its images.
        annotations: masks with class names, see `ground_truth`; classes of a class table that are not seen are left out.
        clip: folder of the CLIP whose text tower names the classes.
        init: folder of a trained network to begin with; its weights must fit.
        out: folder of the result.
        runtime: device, workers, micro-batch, scratch folder.
        recipe: parameters.
        licence: of the annotations, for the account.

    Raises:
        OvsegError: something is missing, does not fit, or the loss is not a number.
    """
    began = _began_with(recipe, init)
    table = _class_table(annotations, recipe.classes)
    key = step_key(
        "proposal_network",
        __name__,
        index=tables.fingerprint(index, "index"),
        annotations=hashing.sha256_path(annotations),
        clip=tables.content_hash(clip),
        init=None if init is None else tables.content_hash(init),
        recipe=vars(recipe),
        licence=licence,
        classes=table and hashing.sha256_file(table),
        **{name: about["sha256"] for name, about in began.items()},
    )
    with distributed_context(runtime.devices) as world:
        if published(out, key, runtime) is not None:
            log.info("proposal_network: done before -> %s", out)
            return
        scratch = Scratch(runtime.work, key, runtime.fresh, keyed_by_code=False) if world.rank == 0 else None
        barrier(world)
        try:
            tower = load_adapted(clip, str(world.device), prompts=False)
            folder = scratch_folder(runtime.work, key, keyed_by_code=False)
            names = vocabulary(annotations, folder, table)
            texts = embed(names, tower.encode_texts, recipe.templates, BATCH)
            model = _model(recipe, len(names), tower, init).to(world.device)
            model.class_predictor.text_embeddings = texts.to(world.device)
            history = History()
            if recipe.steps:
                data = AnnotatedSegmentationDataset(
                    _usable(index, images),
                    annotations,
                    folder,
                    {name: i for i, name in enumerate(names)},
                    crop=recipe.crop_size,
                    scales=(recipe.min_scale, recipe.max_scale),
                    colour=recipe.color_jitter,
                    seed=recipe.seed,
                    table=table,
                )
                _train(model, data, folder, key.fingerprint, runtime, recipe, world, history)
            if scratch:
                about = {
                    "names": names,
                    "templates": recipe.templates,
                    "probe": probe_text_tower(tower),
                    "licence": licence,
                    "init": None if init is None else load_network(init).metadata,
                    "recipe": vars(recipe),
                    **began,
                }
                _publish(scratch, out, model, about, recipe, history)
                log.info("proposal_network -> %s", out)
            barrier(world)
        finally:
            if scratch:
                scratch.close()


def _began_with(recipe: ProposalNetworkRecipe, init: Path | None) -> dict[str, Any]:
    """Exactly which weights the backbone begins with; nothing where it begins with none of its own."""
    own = recipe.pretrained and init is None
    return {"backbone": asdict(identify_backbone(recipe.backbone))} if own else {}


def _class_table(annotations: Path, classes: str | None) -> Path | None:
    """The class table of maps; None for a JSON, which names its categories itself."""
    if not annotations.is_dir():
        return None
    table = find_table(classes) if classes else annotations / CLASSES
    if not table.is_file():
        raise OvsegError(
            f"{table} is missing: proposal_network.classes says which class table the maps are numbered by"
        )
    return table


def vocabulary(annotations: Path, scratch: Path, table: Path | None) -> list[str]:
    """The names of the classes that are learnt, as `ground_truth` labels them.

    Raises:
        OvsegError: there are none.
    """
    if table is not None:
        return [one.names[0] for one in read_classes(table) if one.seen]
    records = open_coco(annotations, scratch / f"{annotations.stem}.sqlite").categories().values()
    names = [str(record["name"]) for record in records]
    if not names or len(set(names)) < len(names):
        raise OvsegError(f"{annotations} names no categories, or two by the same name: {len(names)} in all")
    return names


def _usable(index: Path, images: Path) -> list[ImageRecord]:
    return [image for part in tables.parts(index) for image in read_image_records(part, images)]


def _model(recipe: ProposalNetworkRecipe, classes: int, clip: Clip, init: Path | None) -> Any:
    torch.manual_seed(recipe.seed)
    model = build_network(
        recipe.backbone,
        pretrained=recipe.pretrained and init is None,
        num_queries=recipe.num_queries,
        hidden_dim=recipe.hidden_dim,
        decoder_layers=recipe.decoder_layers,
        dropout=recipe.dropout,
        text_proj_dim=recipe.text_proj_dim,
        width=clip.width,
        classes=classes,
    )
    if init is not None:
        network = load_network(init)
        if network.metadata.get("dilations"):
            raise OvsegError(
                f"{init} is a converted ResNet with dilations, which can be used but not trained: set "
                "proposal_network.steps to 0"
            )
        weights = network.model.state_dict()
        own = model.state_dict()  # the loss's class weights are as many as there are classes
        weights["criterion.empty_weight"] = own["criterion.empty_weight"]
        unlike = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
        if unlike or len(weights) != len(own):
            raise OvsegError(
                f"{init} does not fit section proposal_network of params.yaml: {len(unlike)} weights differ in shape, "
                f"among them {', '.join(unlike[:3])}. Set backbone, num_queries, hidden_dim, decoder_layers and "
                "text_proj_dim as in that folder"
            )
        model.load_state_dict(weights)
    return model


class Objective(nn.Module):
    """The network with its losses as one module, so that it can be wrapped for several processes."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, precision: Literal["fp32", "bf16"]) -> None:
        super().__init__()
        self.model, self.precision = model, precision
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD), persistent=False)

    def forward(self, batch: list[Scene], masks: float, weight: float) -> Tensor:
        """The loss of some scenes.

        Args:
            batch: the scenes.
            masks: what mask losses are divided by: masks of a share like this one, over all ranks on average.
            weight: what class losses are divided by: the same of class weights, see `class_weight`.
        """
        device = self.mean.device
        images = crops.normalise(torch.stack([scene["image"] for scene in batch]).to(device), self.mean, self.std)
        with autocast_context(device, self.precision):
            found = self.model.model(images, output_hidden_states=True)
        # transformers' own has the queries before the first layer too, and all but the last without the decoder's norm
        _, *between, last = (states.float() for states in found.transformer_decoder_hidden_states)
        norm = self.model.model.transformer_module.decoder.layernorm
        outputs = SimpleNamespace(
            pixel_decoder_last_hidden_state=found.pixel_decoder_last_hidden_state.float(),
            transformer_decoder_hidden_states=(*map(norm, between), last),
        )
        classes, queries, auxiliary = self.model.get_logits(outputs)
        self.model.criterion.get_num_masks = lambda *_, **__: max(masks, 1.0)
        targets = [scene["masks"].to(device, torch.float32) for scene in batch]
        labels = [scene["classes"].to(device) for scene in batch]
        losses: dict[str, Tensor] = self.model.get_loss_dict(queries, classes, targets, labels, auxiliary)
        share = self.class_weight(batch) / weight  # transformers divides by this batch's own
        return torch.stack([loss * share if "cross_entropy" in name else loss for name, loss in losses.items()]).sum()

    def class_weight(self, batch: list[Scene]) -> float:
        """The weights of all queries in the class loss: 1 for one that is matched with a mask, less for "no object"."""
        config = self.model.config
        queries = config.decoder_config.num_queries
        matched = [min(len(scene["classes"]), queries) for scene in batch]
        return float(sum(m + config.no_object_weight * (queries - m) for m in matched))


def _train(
    model: Any,
    data: AnnotatedSegmentationDataset,
    folder: Path,
    key: str,
    runtime: Runtime,
    recipe: ProposalNetworkRecipe,
    world: World,
    history: History,
) -> None:
    """Train the network in place."""
    if recipe.batch_size % world.size:
        raise OvsegError(
            f"proposal_network.batch_size={recipe.batch_size} cannot be divided among {world.size} processes"
        )
    if world.device.type == "cuda" and world.size > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    objective = Objective(model.train(), recipe.precision).to(world.device)
    optimiser = torch.optim.AdamW(_groups(model, recipe), lr=recipe.lr, fused=True)
    schedule = warmup_poly(optimiser, recipe.steps, recipe.warmup_steps)
    parts = {"weights": model, "optimiser": optimiser, "schedule": schedule, "history": history}
    checkpoint = Checkpoint(folder, key, parts, runtime.checkpoint_seconds)
    begin = checkpoint.restore(world.device)
    if begin:
        log.info("proposal_network: continues after step %d", begin)
    batches = scenes(data, recipe.batch_size, world.rank, world.size, begin, _readers(runtime, world))
    whole = DistributedDataParallel(objective) if world.size > 1 else objective
    micro = min(runtime.micro_batch or recipe.batch_size, recipe.batch_size // world.size)

    def step(number: int) -> StepResult:
        torch.manual_seed(
            int(recipe.seed * 1_000_003 + number * world.size + world.rank)
        )  # dropout; the same on resume
        return StepResult(_gradients(objective, whole, next(batches), micro, world), recipe.batch_size, [], {})

    train(
        "proposal_network",
        step,
        optimiser,
        schedule,
        checkpoint,
        world,
        begin=begin,
        steps=recipe.steps,
        history=history,
        stop_after=runtime.stop_after,
        clip_norm=recipe.clip_norm,
    )


def _gradients(objective: Objective, whole: nn.Module, batch: list[Scene], micro: int, world: World) -> Tensor:
    """Add the gradients of one step, by micro-batches; returns the loss of the global batch.

    Args:
        objective: the network with its losses.
        whole: the same, in DistributedDataParallel where there are several ranks, which takes the mean of their gradients.
        batch: this rank's share.
        micro: scenes in memory at a time.
        world: the ranks.
    """
    parts = [batch[i : i + micro] for i in range(0, len(batch), micro)]
    shares = world.size * len(parts)
    masks = all_reduce_sum(sum(len(scene["classes"]) for scene in batch), world) / shares
    weight = all_reduce_sum(objective.class_weight(batch), world) / shares
    mine = 0.0
    for i, part in enumerate(parts, start=1):
        alone = isinstance(whole, DistributedDataParallel) and i < len(parts)  # ranks meet once, after the last
        with whole.no_sync() if alone else nullcontext():  # type: ignore[operator]
            loss: Tensor = whole(part, masks, weight) / len(parts)
            with autocast_context(world.device, objective.precision):
                torch.autograd.backward(loss)
        mine += float(loss.detach())
    return torch.tensor(all_reduce_sum(mine, world) / world.size)


def _readers(runtime: Runtime, world: World) -> int:
    """Loading processes of a rank; none on a CPU, whose cores the network has."""
    return max(1, runtime.workers // world.size) if runtime.devices[0].startswith("cuda") else 0


def _groups(model: nn.Module, recipe: ProposalNetworkRecipe) -> list[dict[str, object]]:
    """AdamW's groups: a rate of its own for the backbone, no weight decay for normalisation, embeddings and biases."""
    spared = {
        id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters(recurse=False)
    }
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        spare = id(parameter) in spared or parameter.ndim < 2
        found.setdefault((".encoder." in name, spare), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.lr * (recipe.backbone_lr_multiplier if backbone else 1),
            "weight_decay": 0.0 if spare else recipe.weight_decay,
        }
        for (backbone, spare), parameters in found.items()
    ]


def _publish(
    scratch: Scratch, out: Path, model: Any, about: Mapping[str, Any], recipe: ProposalNetworkRecipe, history: History
) -> None:
    def write(_: str, folder: Path) -> Counts:
        save_network(model, folder, dict(about), recipe.short_side, recipe.long_side)
        write_curves(history, folder)
        return {"steps": int(history.rows[-1]["step"]) if history.rows else 0}

    counts = commit(scratch.folder, "model", write)
    scratch.publish(["model"], out, counts)
