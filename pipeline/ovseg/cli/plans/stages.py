"""The rows of the stages of dvc.yaml, in the order that data flows. Mask accuracy after training is seconds: left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ovseg.cli.plans.amounts import Amounts, fewer, images_in, steps, times
from ovseg.cli.plans.data import images_of
from ovseg.cli.plans.rates import Machine, Rate, clip_of, facts, network_of, rate
from ovseg.cli.plans.rows import LINE, UNKNOWN, Row, Work, many, row
from ovseg.core.options import ProposalNetworkOptions
from ovseg.core.params import Params
from ovseg.datasets.fetch.status import NETWORK_SPEED
from ovseg.mining.estimates import BYTES, BYTES_PER_MASK, BYTES_PER_SAMPLE

FLOAT = 4  # bytes


def stage_rows(params: Params, a: Amounts, machine: Machine, root: Path) -> list[Row]:
    """Rows of the stages; `root` is the folder of the project."""
    trainings = [_finetune(params, a, machine), _prompt(params, a, machine)]
    return [
        _base(params),
        _cpu("index", a.images, "images", a, machine, times(a.images, BYTES["index"])),
        _cpu("nouns", a.captions, "captions", a, machine, times(a.nouns, BYTES["nouns"])),
        _proposal_network(params, machine),
        _propose(params, a, machine),
        _score(params, a, machine),
        _select(a, machine),
        _cpu(
            "shards",
            a.pairs,
            "pairs",
            a,
            machine,
            times(a.pairs, BYTES_PER_SAMPLE[a.kind]),
            files="" if a.shards is None else f", {a.shards:,} shards",
        ),
        *(trainings if params.finetune.init == "base" else reversed(trainings)),
        *_segmented(params, machine, root),
        row(
            "report",
            "all of it",
            "CPU",
            replace(machine, cores=1),
            [(1, rate("report", a.kind, machine))],
            BYTES["report"],
        ),
    ]


def memory(params: Params) -> tuple[float, str] | None:
    """GB that the largest training needs for weights, gradients and the two means of AdamW, and which; None if not known."""
    found = []
    clip = _model(params)
    if params.finetune.epochs and "image_parameters" in clip:
        found.append((FLOAT * (clip["parameters"] + 3 * clip["image_parameters"]) / 1e9, "finetune"))
    network = _network(params.proposal_network)
    if params.proposal_network.steps and network:
        found.append((4 * FLOAT * network["parameters"] / 1e9, "proposal_network"))
    return max(found, default=None)


def _model(params: Params) -> dict[str, Any]:
    return dict(facts()["models"].get(clip_of(params.clip.model), {}))


def _network(section: ProposalNetworkOptions) -> dict[str, Any]:
    return dict(facts()["networks"].get(network_of(section.backbone, section.init), {}))


def _bytes(model: dict[str, Any]) -> float | None:
    return FLOAT * model["parameters"] if model else None


def _base(params: Params) -> Row:
    writes = _bytes(_model(params))
    if params.clip.model.startswith("local-dir:"):
        return Row("base", f"copies {params.clip.model}", "CPU", 1, 0, writes)
    seconds = None if writes is None else writes / NETWORK_SPEED
    sources = (UNKNOWN if writes is None else LINE,)
    handles = f"{params.clip.model}:{params.clip.pretrained}"
    return Row("base", handles, "network", 1, seconds, writes, sources, download=writes)


def _cpu(
    stage: str, number: int | None, what: str, a: Amounts, machine: Machine, writes: float | None, files: str = ""
) -> Row:
    return row(stage, many(number, what), "CPU", machine, [(number, rate(stage, a.kind, machine))], writes, files=files)


def _proposal_network(params: Params, machine: Machine) -> Row:
    section, network = params.proposal_network, _network(params.proposal_network)
    if not section.steps:
        handles = f"passes {section.init} through"
        works: list[Work] = []
    else:
        name, samples = network_of(section.backbone, section.init), section.steps * section.batch_size
        scale = (section.crop_size / network.get("side", section.crop_size)) ** 2
        handles = f"{section.steps:,} steps of {section.batch_size}"
        works = [(samples, rate("train network", name, machine, section.precision, scale))]
    works.append(_look(params, fewer(images_in(params.heldout.images, params), params.heldout.limit), machine))
    fresh = section.steps > 0 and section.pretrained and section.init is None
    download = times(network.get("backbone"), FLOAT) if fresh else 0
    return row("proposal_network", handles, "GPU", machine, works, _bytes(network), download=download)


def _look(params: Params, images: int | None, machine: Machine) -> Work:
    """Proposals of images by the network."""
    return images, rate("propose", network_of(params.proposal_network.backbone, params.proposal_network.init), machine)


def _propose(params: Params, a: Amounts, machine: Machine) -> Row:
    section = params.propose
    writes = times(a.masks, BYTES_PER_MASK[a.kind])
    handles = f"{many(a.images, 'images')}, {many(a.masks, 'masks', 'at most')}" if a.images else many(None, "")
    if section.source in ("ground_truth", "precomputed"):
        return row("propose", handles, "CPU", machine, [(a.images, rate("read masks", a.kind, machine))], writes)
    if section.source == "proposal_network":
        return row("propose", handles, "GPU", machine, [_look(params, a.images, machine)], writes)
    works = [(a.images, rate("propose", network_of(section.model or "", None), machine))]
    return row("propose", handles, "GPU", machine, works, writes)


def _score(params: Params, a: Amounts, machine: Machine) -> Row:
    found = rate("score", clip_of(params.clip.model), machine, params.score.precision)
    handles = many(a.masks, "masks", "at most")
    return row("score", handles, "GPU", machine, [(a.masks, found)], times(a.nouns, BYTES["candidates"]))


def _select(a: Amounts, machine: Machine) -> Row:
    works = [(a.nouns, rate("select", a.kind, machine))]
    handles = f"{many(a.nouns, 'nouns', 'about')}, {many(a.pairs, 'pairs', 'at most')}" if a.nouns else many(None, "")
    return row("select", handles, "CPU", replace(machine, cores=1), works, times(a.pairs, BYTES["pairs"]))


def _finetune(params: Params, a: Amounts, machine: Machine) -> Row:
    section = params.finetune
    found = rate("finetune", clip_of(params.clip.model), machine, section.precision)
    return _training("finetune", section.init, steps(section, a.pairs), section.batch_size, found, params, machine)


def _prompt(params: Params, a: Amounts, machine: Machine) -> Row:
    section = params.prompt
    work = "prompt" if section.tower_lr is None else "prompt and tower"
    found = rate(work, clip_of(params.clip.model), machine, section.precision)
    return _training("prompt", section.init, steps(section, a.pairs), section.batch_size, found, params, machine)


def _training(
    stage: str, init: str, number: int | None, batch: int, found: Rate | None, params: Params, machine: Machine
) -> Row:
    writes = _bytes(_model(params))
    if number == 0:
        return row(stage, f"passes models/{init} through", "GPU", machine, [], writes)
    handles = many(number, f"steps of {batch:,} pairs")
    return row(stage, handles, "GPU", machine, [(times(number, batch), found)], writes)


def _segmented(params: Params, machine: Machine, root: Path) -> list[Row]:
    """Tune, which cuts crops for each mask threshold, and evaluate, which cuts them once."""
    number = fewer(images_of(params.calibrate.benchmark, params, root), params.calibrate.limit)
    rows = [_segment("calibrate", number, len(set(params.calibrate.thresholds)), params, machine)]
    for name in params.evaluate.benchmarks:
        number = fewer(images_of(f"{params.evaluate.folder}/{name}", params, root), params.evaluate.limit)
        rows.append(_segment(f"evaluate@{name}", number, 1, params, machine))
    return rows


def _segment(stage: str, images: int | None, thresholds: int, params: Params, machine: Machine) -> Row:
    models = len(set(params.evaluate.models))
    crops = times(images, params.proposal_network.num_queries * thresholds * models)
    found = rate("segment", clip_of(params.clip.model), machine, params.segment.precision)
    handles = "not known: the benchmark is not there" if crops is None else f"{images:,} images, {crops:,} crops"
    return row(
        stage,
        handles,
        "GPU",
        machine,
        [_look(params, images, machine), (crops, found)],
        times(images, BYTES[stage.partition("@")[0]]),
    )
