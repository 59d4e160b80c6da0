"""Plans: what each step would handle, write, download and take (`ovseg plan`, `ovseg-mine run --dry-run`). Nothing is run.

Rates and sizes are in rates.json, each with its source. What is not known is NaN, so that all that follows from it is NaN, too;
it is shown as "unknown" and missing in the totals.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ovseg.core import options
from ovseg.core.json_files import read_json
from ovseg.core.params import Params
from ovseg.core.remote_files import local_copy
from ovseg.datasets import official
from ovseg.datasets.caption_tables import Columns
from ovseg.datasets.captions import open_captions
from ovseg.datasets.coco import open_coco
from ovseg.datasets.fetch.releases import parts_of, published_files
from ovseg.datasets.fetch.status import format_bytes, format_seconds, part_state
from ovseg.engine.runtime import from_environment
from ovseg.proposals.sources import SOURCES

UNKNOWN = math.nan
SAMPLE = 200  # images whose captions or masks are counted
SCRATCH = "OVSEG_WORK"  # the folder of unfinished work, in the steps of rows whose bytes lie there
# Of modules that import torch, which takes seconds: clip.embedding_files, evaluation.prediction_store, proposals.network.
REGION_NAME, LARGEST, SIZE_DIVISOR, STRIDE, CONVNEXT_STRIDE = 32, 2**22, 32, 4, 32
ON_CROPS = ("crops", "text_prompts")  # the methods of finetune whose samples are pairs; those of the others are images
MEASURED_SIDE = 448  # pixels of the images of rates.json whose regions are encoded in one pass, 100 each
READ_FROM_FILES = [name for name, source in SOURCES.items() if not source.uses_model]


class Machine(NamedTuple):
    """CPU processes, device of the models ("cpu" or a GPU of rates.json), number of GPUs, and crops per second if measured."""

    cores: int
    device: str = "cpu"
    gpus: int = 1
    crops_per_second: float = UNKNOWN


class Work(NamedTuple):
    """Items that are handled in one way: kind, model and, if it matters, precision name their rate in rates.json.

    Models have the names of rates.json: see `_clip` and `_backbone`.
    """

    kind: str
    items: float
    model: str = ""
    precision: str | None = None


class Row(NamedTuple):
    """What a step handles, the seconds it takes, the bytes it writes and downloads, and where its rates come from."""

    step: str
    amount: float
    unit: str
    seconds: float
    disk: float
    download: float = 0
    sources: tuple[str, ...] = ()


@cache
def facts() -> dict[str, Any]:
    """The content of rates.json."""
    return dict(json.loads(Path(__file__).with_name("rates.json").read_text(encoding="utf-8")))


def plan_mining(run: options.RunOptions | Params, machine: Machine, network: str = "") -> list[Row]:
    """Plan the steps from `index` to `shards`; `network` is the backbone of the proposal network, if that makes the masks."""
    disk, propose, fraction = facts()["bytes"], run.propose, run.select.annotated_fraction
    images, captions = _count_captions(run.index)
    captions = images if run.nouns.captions_per_image == 1 else captions
    first, further = facts()["nouns_per_caption"]
    num_nouns = images * first + (captions - images) * further
    masks = images * _masks_per_image(propose)
    pairs = num_nouns / (1 - fraction) if fraction < 1 else UNKNOWN
    kind = "read masks" if propose.source in READ_FROM_FILES else "propose"
    masks_work = Work(kind, images, _backbone(propose.model or network))
    encode_work = _encode_work(run, run.score.encoder, run.score.image_size, images, masks, run.score.precision)
    score_bytes = num_nouns * disk["score"] + _region_bytes(run, masks, min(masks, num_nouns * run.score.top_k))
    return [
        _row(machine, "index", images, "images", images * disk["index"]),
        _row(machine, "nouns", captions, "captions", num_nouns * disk["nouns"]),
        _row(machine, "propose", images, "images", masks * disk["propose"], [masks_work]),
        _row(machine, "score", masks, "masks at most", score_bytes, [encode_work]),
        _row(machine, "select", num_nouns, "nouns", pairs * disk["select"]),
        _row(machine, "shards", pairs, "pairs at most", pairs * disk["shards"]),
    ]


def plan_pipeline(params: Params, machine: Machine) -> list[Row]:
    """Plan data sets and stages, without `measure` and `report`, which take minutes."""
    clip, network = params.clip, params.proposal_network
    mining = plan_mining(params, machine, network.backbone)
    name, backbone = _clip(clip.model), _backbone(network.backbone)
    clip_bytes, network_bytes = (_bytes("model", known) for known in (name, backbone))
    trained = Work("train network", network.steps * network.batch_size, backbone, network.precision)
    is_new = network.steps and network.pretrained and network.init is None
    backbone_bytes = _bytes("backbone", backbone) if is_new else 0
    rows = [
        *_data_rows(params, machine),
        Row("base", 1, "CLIP", 0, clip_bytes, 0 if clip.model.startswith("local-dir:") else clip_bytes),
        _row(machine, "proposal_network", trained.items, "images", network_bytes, [trained], backbone_bytes),
        *mining,
    ]
    for step, section in (("finetune", params.finetune), ("prompt", params.prompt)):
        most = None if section.max_steps is None else section.max_steps * section.batch_size
        on_images = getattr(section, "method", "crops") not in ON_CROPS
        samples = _limited(section.epochs and mining[0 if on_images else -1].amount * section.epochs, most)
        kind = "finetune" if getattr(section, "tower_lr", None) else step  # both towers cost as much as finetuning
        work = Work("train regions" if on_images else kind, samples, name, section.precision)
        unit = "images at most" if on_images else "pairs at most"
        rows.append(_row(machine, step, samples, unit, clip_bytes, [work]))
    return [*rows, *_evaluation_rows(params, machine, backbone)]


def format_plan(rows: Sequence[Row], machine: Machine, free: int) -> str:
    """The plan as text, with totals over what is known, and a warning if `free` bytes of disk are too few."""
    totals = [sum(value for value in column if not math.isnan(value)) for column in list(zip(*rows, strict=True))[3:6]]
    models = "the CPU" if machine.device == "cpu" else f"{machine.gpus} x {machine.device}"
    lines = [f"For {machine.cores} CPU cores; models on {models}."]
    lines += ["", f"{'step':26}{'handles':>26}{'time':>10}{'disk':>10}{'download':>10}"]
    for step, handles, seconds, disk, download in [
        *((row.step, f"{_text(row.amount, '{:,.0f}'.format)} {row.unit}", *row[3:6]) for row in rows),
        ("total of what is known", "", *totals),
    ]:
        sizes = f"{_text(disk, format_bytes):>10}{_text(download, format_bytes):>10}"
        lines.append(f"{step:26}{handles:>26}{_text(seconds, format_seconds):>10}{sizes}")
    shortage = f": NOT ENOUGH, {format_bytes(totals[1])} are needed" if totals[1] > free else ""
    lines.append(f"{format_bytes(free)} are free{shortage}. DVC's cache needs the same again if it cannot link files.")
    rates = dict.fromkeys(f"  {row.step.partition('@')[0]}: {source}" for row in rows for source in row.sources)
    if any(row.step.startswith(SCRATCH) for row in rows):
        lines.append(f"{SCRATCH} is counted as if it were on this disk; its two folders can be deleted at any time.")
    return "\n".join([*lines, "Rates:", *rates, "Finished work is counted, too. Nothing was done."])


def find_machine(gpu: str | None, gpus: int | None) -> Machine:
    """The machine that the user names, or this one."""
    runtime = from_environment()
    here = [device for device in runtime.devices if device.startswith("cuda")]
    if gpu is None and here:
        import torch

        gpu = torch.cuda.get_device_name(here[0])
    return Machine(runtime.workers, (gpu or "cpu").lower(), gpus or len(here) or 1)


def _row(
    machine: Machine, step: str, amount: float, unit: str, disk: float, works: Sequence[Work] = (), download: float = 0
) -> Row:
    """A row whose time is the sum of its works; a step without a model is one kind of work of its own."""
    kind, _, model = step.partition("@")
    works = works or [Work(kind, amount, model)]
    rates = [_rate(machine, work) for work in works]
    seconds = sum(work.items and work.items / rate for work, (rate, _) in zip(works, rates, strict=True))
    return Row(step, amount, unit, seconds, disk, download, tuple(source for _, source in rates if source))


def _rate(machine: Machine, work: Work) -> tuple[float, str]:
    """Items per second of the whole machine, and where that comes from."""
    if work.kind == "encode" and not math.isnan(machine.crops_per_second):
        return machine.crops_per_second, "measured on this machine"
    for row in facts()["rates"]:
        on_device = row["device"] == "any CPU" or row["device"] in machine.device
        of_model = row.get("model", work.model) == work.model and row.get("precision", work.precision) == work.precision
        if row["work"] == work.kind and of_model and on_device:
            devices = machine.cores / row["cores"] if "cores" in row else machine.gpus
            return row["per_second"] * devices, row["source"]
    return UNKNOWN, ""


def _encode_work(
    run: options.RunOptions | Params,
    encoder: options.Encoder,
    side: int | None,
    images: float,
    masks: float,
    precision: str,
) -> Work:
    """Encoding masks: a crop of each, or those of an image in one pass, which takes time as its pixels, of `side` a side."""
    if encoder == "crops":
        return Work("encode", masks, _clip(run.clip.model), precision)
    kind = "encode regions" if encoder == "region_tokens" else f"encode regions, {encoder}"
    return Work(kind, images * max(1.0, ((side or 0) / MEASURED_SIDE) ** 2), _clip(run.clip.model), precision)


def _encoder(params: Params, model: options.ModelName) -> options.Encoder:
    """How a model of models/ encodes masks."""
    if model == "base":
        return "crops"
    if model == "finetune" and params.finetune.method not in ON_CROPS:
        return params.finetune.region_encoder
    return _encoder(params, params.finetune.init if model == "finetune" else params.prompt.init)


def _cells(params: Params, model: options.ModelName) -> int:
    """The cells of an image that a model of models/ embeds beside its masks: those that pseudo-texts attend to."""
    with_cells = params.finetune.psm == "pseudo_text" and _encoder(params, model) == "pooled"
    return (params.finetune.image_size // CONVNEXT_STRIDE) ** 2 if with_cells else 0


def _clip(name: str) -> str:
    """The name of a CLIP in rates.json: that of open_clip, without the activation."""
    return name.removesuffix("-quickgelu")


def _backbone(name: str) -> str:
    """The name of the backbone in rates.json that a model is named after; the name itself if there is none."""
    return next((known for known in facts()["backbone_bytes"] if known in name), name)


def _data_rows(params: Params, machine: Machine) -> Iterator[Row]:
    """What is downloaded, verified and converted for the manifests and benchmarks that params.yaml names."""
    folders = [params.calibrate.benchmark, *(params.evaluate.folder / name for name in params.evaluate.benchmarks)]
    converted = dict.fromkeys(folder.name for folder in folders if folder.parent.name == "benchmarks")
    manifests = [path for path in params.data.model_dump().values() if path and path.match("*/manifests/*.tsv")]
    parts = [(path.parts[-3], path.stem) for path in manifests]
    parts += [(official.PARTS[name][0], part) for name in converted for part in official.PARTS[name][1]]
    for dataset, name in dict.fromkeys(parts):
        (part,) = parts_of(dataset, (name,))
        state, files = part_state(part, Path("data", dataset)), sum(holding.files for holding in part.holds)
        no_size = state.status == "missing" and not part.download  # it takes an account, and no size is published
        seconds, disk, download = (UNKNOWN,) * 3 if no_size else (state.seconds, state.disk, state.download)
        yield Row(f"{dataset} {name}", files, f"files, {state.status}", seconds, disk, download)
    for name in converted:
        images, kind = official.published(name)["images"], "image" if official.BENCHMARKS[name].short_side else "labels"
        yield _row(machine, f"convert@{name}", images, "images", images * facts()["bytes"][kind])


def _evaluation_rows(params: Params, machine: Machine, backbone: str) -> Iterator[Row]:
    """Embedding and evaluating the held-out split and each benchmark, then what both keep until it is deleted.

    An encoder of one pass sees an image once for each threshold, and once for the masks of the ground truth of a benchmark. The
    proposal network sees it again in `calibrate` and `evaluate` if its masks are too large to be kept.
    """
    calibrate, evaluate, disk = params.calibrate, params.evaluate, facts()["bytes"]
    models, side, precision = dict.fromkeys(evaluate.models), params.finetune.image_size, params.segment.precision
    cells_of_image = sum(_cells(params, model) for model in models)
    unit = "masks and cells at most" if cells_of_image else "masks at most"
    row_bytes = 2 * _embedding_width(params) + float(disk["propose"]) / len(models)  # a mask is kept once for all CLIPs
    kept = _prediction_bytes(params.proposal_network) > 0
    thresholds = len(set(calibrate.thresholds))
    tasks = [("embed_heldout", "calibrate", calibrate.benchmark, calibrate.limit, thresholds, thresholds)]
    tasks += [
        (f"embed@{name}", f"evaluate@{name}", evaluate.folder / name, evaluate.limit, 1, 2)
        for name in evaluate.benchmarks
    ]
    all_images = all_regions = 0.0
    for embed, step, folder, limit, of_proposals, passes in tasks:
        images = _limited(_count_benchmark(folder), limit)
        masks = images * params.proposal_network.num_queries * of_proposals
        network = Work("propose", images, backbone)
        encode = [
            _encode_work(params, _encoder(params, model), side, images * passes, masks, precision) for model in models
        ]
        regions = masks * len(models) + images * passes * cells_of_image
        yield _row(machine, embed, regions, unit, regions * row_bytes, [network, *encode])
        again = network._replace(items=0 if kept else images)
        yield _row(machine, step, images, "images", images * disk[step.partition("@")[0]], [again])
        all_images, all_regions = all_images + images, all_regions + regions
    yield from _scratch_rows(params, all_images, all_regions, unit)


def _scratch_rows(params: Params, images: float, regions: float, unit: str) -> Iterator[Row]:
    """What embed_heldout and embed keep in the folder of unfinished work until it is deleted; docs/faq.md says what it is.

    Images that benchmarks share, and their masks, are kept once but counted for each. The few masks of the ground truth, which
    embed adds, are not counted.
    """
    network, width = params.proposal_network, _embedding_width(params)
    yield Row(f"{SCRATCH}/regions", regions, unit, 0, regions * (4 * width + REGION_NAME))
    masks = _prediction_bytes(network)
    images, embeddings = images if masks else 0, 4 * width * (network.num_queries + 1)  # of the queries and "no object"
    yield Row(f"{SCRATCH}/predictions", images, "images at most", 0, images and images * (masks + embeddings))


def _prediction_bytes(network: options.ProposalNetworkOptions) -> float:
    """The bytes of the masks of a photograph of 4:3, at most those that are kept; 0 if not even a square image has fewer."""
    short = min(network.short_side, network.long_side * 3 / 4)
    rows, columns = (math.ceil(side / SIZE_DIVISOR) * SIZE_DIVISOR // STRIDE for side in (short, short * 4 / 3))
    of_row = 4 * network.num_queries * rows
    return 0 if of_row * rows > LARGEST else min(of_row * columns, LARGEST)


def _count_captions(index: options.IndexOptions) -> tuple[float, float]:
    """The number of images and of captions: as published, or counted if the captions are there."""
    images, per_image = published_files(index.images) or UNKNOWN, facts()["captions_per_image"]
    if math.isnan(images) and index.captions.exists():
        with tempfile.TemporaryDirectory() as folder:
            columns = Columns(index.image_column, index.caption_column, index.id_column)
            with local_copy(index.captions, Path(folder)) as captions:
                store = open_captions(captions, Path(folder) / "captions.sqlite", columns)
            counts = [len(store.annotations(image["id"])) for image in store.images(SAMPLE)]
            images, per_image = store.count(), sum(counts) / max(1, len(counts))
    images = _limited(images, index.limit)
    return images, images * per_image


def _masks_per_image(propose: options.ProposeOptions) -> float:
    """Counted on the first images for annotated masks in a JSON file; the most that there can be for a model."""
    if propose.source not in READ_FROM_FILES:
        return propose.max_proposals
    if propose.source != "ground_truth" or propose.path is None or not propose.path.is_file():
        return UNKNOWN
    with tempfile.TemporaryDirectory() as folder:
        masks = open_coco(propose.path, Path(folder) / "masks.sqlite")
        records = [masks.annotations(image["id"]) for image in islice(masks.images(), SAMPLE)]
    counts = [len(record.get("segments_info", [0])) for image in records for record in image]
    return sum(counts) / max(1, len(records))


def _count_benchmark(folder: Path) -> float:
    """The number of images of a benchmark: as listed in its folder, or as published."""
    if (folder / "items.tsv").is_file():
        return len((folder / "items.tsv").read_text(encoding="utf-8").splitlines()) - 1
    return official.published(folder.name)["images"] if folder.name in official.BENCHMARKS else UNKNOWN


def _region_bytes(run: options.RunOptions | Params, masks: float, candidates: float) -> float:
    """The bytes of the table `regions`, at most, since nouns share masks; all masks are in the scratch folder, too."""
    kept = run.score.keep_regions
    if kept == "none":
        return 0
    width = _embedding_width(run)
    in_table = (masks if kept == "all" else candidates) * (2 * width + float(facts()["bytes"]["region"]))
    return in_table + (masks * 4 * width if kept == "all" else 0)


def _embedding_width(run: options.RunOptions | Params) -> float:
    """The number of components of an embedding by the CLIP of a run."""
    config = Path(run.clip.model.removeprefix("local-dir:")) / "open_clip_config.json"
    width: float = facts()["embedding_widths"].get(_clip(run.clip.model), UNKNOWN)
    if config.is_file():
        width = float(read_json(config)["model_cfg"]["embed_dim"])
    return width


def _bytes(what: str, name: str) -> float:
    return float(facts()[f"{what}_bytes"].get(name, UNKNOWN))


def _limited(number: float, limit: int | None) -> float:
    return number if limit is None else limit if math.isnan(number) else min(number, limit)


def _text(value: float, form: Callable[[float], str]) -> str:
    return "unknown" if math.isnan(value) else form(value)
