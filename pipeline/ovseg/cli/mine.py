"""The command `ovseg-mine`: mining on its own, without DVC or git.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ovseg.cli.entry import run_app
from ovseg.core.errors import OvsegError

if TYPE_CHECKING:
    from ovseg.engine.runtime import Runtime
    from ovseg.mining.run import Settings

mine = typer.Typer(
    help="Mine mask-noun pairs: captions and images in, WebDataset shards of masked crops out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Format(StrEnum):
    """Export formats."""

    open_clip = "open_clip"
    csv = "csv"
    coco = "coco"


Images = Annotated[Path, typer.Option(help="Folder of the images, or of WebDataset shards.")]
Captions = Annotated[Path, typer.Option(help="Captions JSON in COCO's format, or the folder of shards again.")]
Proposals = Annotated[
    str,
    typer.Option(
        help="Where masks come from: ground_truth:PATH, precomputed:PATH, or {proposal_network,maskformer,sam2}:CHECKPOINT."
    ),
]
ClipName = Annotated[
    str,
    typer.Option(
        help="NAME:WEIGHTS (an open_clip tag, a file, a folder, or 'random'), local-dir:FOLDER or hf-hub:REPO."
    ),
]
Out = Annotated[Path, typer.Option(help="Output folder.")]
Table = Annotated[Path, typer.Option(help="Folder of that table.", show_default=False)]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N images.")]
NounsModel = Annotated[str, typer.Option(help="spaCy pipeline: an installed one, or a folder.")]
Unit = Annotated[Literal["token", "chunk"], typer.Option(help="Single nouns, or compounds kept together.")]
PerImage = Annotated[Literal["1", "all"], typer.Option("--captions-per-image", help="1 is the lowest caption id.")]
StopList = Annotated[
    Path | None, typer.Option(help="Nouns to leave out, one a line; default: those that come with ovseg.")
]
Annotations = Annotated[Path | None, typer.Option(help="Annotated masks with class names, for --annotated-fraction.")]
MaskThreshold = Annotated[float, typer.Option(min=0.01, max=0.99, help="Soft masks are cut here.")]
MaxProposals = Annotated[int, typer.Option(min=1, help="Masks per image, best first.")]
Templates = Annotated[Literal["none", "single", "vild"], typer.Option(help="Text templates.")]
TopK = Annotated[int, typer.Option(min=1, help="Proposals kept for each noun.")]
DuplicateIou = Annotated[
    float, typer.Option(min=0.01, max=1, help="Masks that overlap more are encoded once; 1 is off.")
]
Precision = Annotated[Literal["fp32", "bf16"], typer.Option(help="Of the encoders.")]
Fill = Annotated[Literal["mean", "zero", "keep"], typer.Option(help="Background of the crops that CLIP sees.")]
Antialias = Annotated[bool, typer.Option(help="Shrink crops without aliasing; the reference does not.")]
Rule = Annotated[Literal["best", "one_to_one"], typer.Option(help="Each noun its best mask, or a matching per image.")]
MinSimilarity = Annotated[float | None, typer.Option(min=-1, max=1, help="Least cosine; none in the paper.")]
MinMargin = Annotated[float | None, typer.Option(min=0, max=2, help="Least distance to the next mask.")]
MinArea = Annotated[int, typer.Option(min=1, help="Least area of a mask in pixels.")]
MaxPerNoun = Annotated[int | None, typer.Option(min=1, help="Keep the most similar N pairs of a noun.")]
AnnotatedFraction = Annotated[float, typer.Option(min=0, max=1, help="Share of annotated masks among the pairs.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the order of the pairs.")]
PerShard = Annotated[int, typer.Option("--samples-per-shard", min=1, help="At most that many samples in a shard.")]
MinShards = Annotated[int, typer.Option(min=1, help="At least that many shards: one a worker of each rank.")]
Background = Annotated[Literal["mean", "zero", "keep"], typer.Option(help="Background of the stored crops.")]
JpegQuality = Annotated[int, typer.Option(min=1, max=100, help="Of the stored crops.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes, or decoding threads beside a model; default: cores.")
]
Device = Annotated[
    str, typer.Option(help="Torch devices with commas between, one process each; auto: all CUDA, or CPU.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Crops in one forward pass.")]
Executor = Annotated[Literal["local", "ray"], typer.Option(help="Where units of work run.")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Forget unfinished work of an earlier run with the same settings.")
]
Run = Annotated[Path, typer.Argument(help="Output folder of a run, or its shards folder.")]


def main() -> None:
    """Entry point."""
    run_app(mine)


def _runtime(workers: int | None, device: str, batch_size: int, executor: str, fresh: bool) -> Runtime:
    from ovseg.engine.runtime import Runtime, devices

    return Runtime(devices(device), workers or os.cpu_count() or 1, batch_size, executor, fresh=fresh)


def _source(text: str) -> dict[str, Any]:
    """SOURCE[:PATH] -> the fields `source`, `path` and `model` of a run's settings."""
    name, _, where = text.partition(":")
    needs = {
        "proposal_network": "model",
        "maskformer": "model",
        "sam2": "model",
        "ground_truth": "path",
        "precomputed": "path",
    }
    if name not in needs:
        raise OvsegError(
            f"--proposals {text!r}: the source is {', '.join(needs)}, then a colon and a path, or the name of a checkpoint"
        )
    if not where:
        raise OvsegError(
            f"--proposals {text!r} needs {'a path' if needs[name] == 'path' else 'a checkpoint'}: {name}:WHERE"
        )
    return {"source": name, "path": None, "model": None, needs[name]: where}


@mine.command()
def run(
    images: Images,
    captions: Captions,
    proposals: Proposals,
    clip: ClipName,
    out: Out,
    nouns_model: NounsModel = "en_core_web_sm",
    limit: Limit = None,
    unit: Unit = "chunk",
    captions_per_image: PerImage = "1",
    stop_list: StopList = None,
    annotations: Annotations = None,
    mask_threshold: MaskThreshold = 0.4,
    max_proposals: MaxProposals = 100,
    templates: Templates = "vild",
    top_k: TopK = 5,
    duplicate_iou: DuplicateIou = 1.0,
    precision: Precision = "fp32",
    fill: Fill = "mean",
    antialias: Antialias = True,
    rule: Rule = "best",
    min_similarity: MinSimilarity = None,
    min_margin: MinMargin = None,
    min_area: MinArea = 1,
    max_per_noun: MaxPerNoun = None,
    annotated_fraction: AnnotatedFraction = 0.0,
    seed: Seed = 0,
    samples_per_shard: PerShard = 4096,
    min_shards: MinShards = 16,
    background: Background = "mean",
    jpeg_quality: JpegQuality = 95,
    workers: Workers = None,
    device: Device = "auto",
    batch_size: BatchSize = 64,
    executor: Executor = "local",
    fresh: Fresh = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and what it costs; do nothing.")
    ] = False,
) -> None:
    """All of it: index, nouns, propose, score, select, shards. Run it again after a kill and it continues."""
    from ovseg.clip.names import parse
    from ovseg.mining.run import Settings
    from ovseg.mining.run import mine as mine_all

    values = {k: v for k, v in locals().items() if k in Settings.__dataclass_fields__}
    model, pretrained = parse(clip)
    values |= {"images": str(images), "captions": str(captions), "clip_model": model, "clip_pretrained": pretrained}
    values |= {"captions_per_image": _per_image(captions_per_image), **_source(proposals)}
    values |= {"stop_list": _text(stop_list), "annotations": _text(annotations)}
    settings, runtime = Settings(**values), _runtime(workers, device, batch_size, executor, fresh)
    if dry_run:
        typer.echo(_plan(settings, out, runtime))
        return
    counts = mine_all(settings, out, runtime)
    from ovseg.report.browser import write_browser
    from ovseg.report.run_text import summarize_run

    write_browser(out, images, out / "pairs.html", number=500)
    typer.echo(summarize_run(counts, out))


def _plan(settings: Settings, out: Path, runtime: Runtime) -> str:
    """The plan of a run, after the checks that would stop the run at once; the encoder's speed is measured.

    Raises:
        OvsegError: If a file is missing, or the tagger or the CLIP cannot be loaded.
    """
    from ovseg.cli.plan import find_machine, format_plan, plan_mining
    from ovseg.clip.load import load_clip
    from ovseg.clip.speed import crops_per_second
    from ovseg.core import options
    from ovseg.datasets.fetch.status import free_space
    from ovseg.mining.nouns import load_tagger

    s = settings
    load_tagger(s.nouns_model)
    is_path = s.clip_model.startswith(("local-dir:", "hf-hub:"))
    clip = load_clip(s.clip_model, s.clip_pretrained if is_path else "random", runtime.devices[0], s.precision)
    speed = crops_per_second(clip, runtime.batch_size) * len(runtime.devices)
    machine = find_machine(None, len(runtime.devices))._replace(cores=runtime.workers, crops_per_second=speed)
    rows = plan_mining(
        options.ClipOptions(model=s.clip_model, pretrained=s.clip_pretrained),
        options.IndexOptions(images=Path(s.images), captions=Path(s.captions), limit=s.limit),
        options.NounsOptions(captions_per_image=s.captions_per_image),
        options.ProposeOptions(
            source=s.source, path=None if s.path is None else Path(s.path), model=s.model, max_proposals=s.max_proposals
        ),
        options.ScoreOptions(precision=s.precision),
        options.SelectOptions(annotated_fraction=s.annotated_fraction),
        machine,
    )
    return format_plan(rows, machine, free_space(out.absolute()))


def _per_image(text: str) -> Any:
    return 1 if text == "1" else "all"


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


@mine.command()
def index(
    images: Images, captions: Captions, out: Out, limit: Limit = None, workers: Workers = None, fresh: Fresh = False
) -> None:
    """List images and captions, one row an image; what is missing or broken is recorded."""
    from ovseg.mining.index import build_index

    build_index(images, captions, out, _runtime(workers, "cpu", 1, "local", fresh), limit)


@mine.command()
def nouns(
    index: Table,
    out: Out,
    nouns_model: NounsModel = "en_core_web_sm",
    unit: Unit = "chunk",
    captions_per_image: PerImage = "1",
    stop_list: StopList = None,
    workers: Workers = None,
    fresh: Fresh = False,
) -> None:
    """The nouns of each image's captions."""
    from ovseg.mining.nouns import extract_nouns

    extract_nouns(
        index,
        out,
        _runtime(workers, "cpu", 1, "local", fresh),
        model=nouns_model,
        unit=unit,
        captions_per_image=_per_image(captions_per_image),
        stop_list=stop_list,
    )


@mine.command()
def propose(
    index: Table,
    images: Images,
    proposals: Proposals,
    out: Out,
    annotations: Annotations = None,
    mask_threshold: MaskThreshold = 0.4,
    max_proposals: MaxProposals = 100,
    workers: Workers = None,
    device: Device = "auto",
    fresh: Fresh = False,
) -> None:
    """Masks of each image, stored as RLE."""
    from ovseg.core.options import ProposeOptions
    from ovseg.mining.propose import propose_masks

    found = _source(proposals)
    propose_masks(
        index,
        images,
        out,
        _runtime(workers, device, 1, "local", fresh),
        ProposeOptions(
            source=found["source"],
            path=Path(found["path"]) if found["path"] else None,
            model=found["model"],
            annotations=annotations,
            mask_threshold=mask_threshold,
            max_proposals=max_proposals,
        ),
    )


@mine.command()
def score(
    index: Table,
    images: Images,
    nouns: Table,
    proposals: Table,
    clip: ClipName,
    out: Out,
    templates: Templates = "vild",
    top_k: TopK = 5,
    duplicate_iou: DuplicateIou = 1.0,
    precision: Precision = "fp32",
    fill: Fill = "mean",
    antialias: Antialias = True,
    workers: Workers = None,
    device: Device = "auto",
    batch_size: BatchSize = 64,
    executor: Executor = "local",
    fresh: Fresh = False,
) -> None:
    """How well each noun fits each mask of its image, by CLIP."""
    from ovseg.clip.names import parse
    from ovseg.mining.score import score_nouns

    model, pretrained = parse(clip)
    score_nouns(
        index,
        images,
        nouns,
        proposals,
        out,
        _runtime(workers, device, batch_size, executor, fresh),
        clip_model=model,
        clip_pretrained=pretrained,
        precision=precision,
        fill=fill,
        antialias=antialias,
        templates=templates,
        top_k=top_k,
        duplicate_iou=duplicate_iou,
    )


@mine.command()
def select(
    candidates: Table,
    proposals: Table,
    out: Out,
    rule: Rule = "best",
    min_similarity: MinSimilarity = None,
    min_margin: MinMargin = None,
    min_area: MinArea = 1,
    max_per_noun: MaxPerNoun = None,
    annotated_fraction: AnnotatedFraction = 0.0,
    seed: Seed = 0,
    fresh: Fresh = False,
) -> None:
    """Which candidates become pairs."""
    from ovseg.mining.select import select_pairs

    select_pairs(
        candidates,
        proposals,
        out,
        _runtime(1, "cpu", 1, "local", fresh),
        rule=rule,
        min_similarity=min_similarity,
        min_margin=min_margin,
        min_area=min_area,
        max_per_noun=max_per_noun,
        annotated_fraction=annotated_fraction,
        seed=seed,
    )


@mine.command()
def shards(
    index: Table,
    images: Images,
    proposals: Table,
    pairs: Table,
    out: Out,
    samples_per_shard: PerShard = 4096,
    min_shards: MinShards = 16,
    background: Background = "mean",
    jpeg_quality: JpegQuality = 95,
    workers: Workers = None,
    fresh: Fresh = False,
) -> None:
    """Pairs as WebDataset tars of masked crops."""
    from ovseg.mining.shards import write_shards

    write_shards(
        index,
        images,
        proposals,
        pairs,
        out,
        _runtime(workers, "cpu", 1, "local", fresh),
        samples_per_shard=samples_per_shard,
        min_shards=min_shards,
        background=background,
        jpeg_quality=jpeg_quality,
    )


@mine.command()
def inspect(
    run: Run,
    noun: Annotated[str | None, typer.Option(help="Only pairs of this noun.")] = None,
    number: Annotated[int, typer.Option(min=1, help="How many pairs to show.")] = 10,
) -> None:
    """What is in a run: counts, the commonest nouns, some pairs."""
    from ovseg.report.run_text import describe_run

    typer.echo(describe_run(run, noun, number))


@mine.command()
def verify(run: Run) -> None:
    """Check a run: checksums, every sample opens, counts agree."""
    from ovseg.mining.verify import verify as check

    typer.echo(check(run))


@mine.command()
def export(
    run: Run,
    out: Out,
    format: Annotated[Format, typer.Option(help="Shards and CSV for open_clip, or a COCO JSON of the masks.")],
    fill: Fill = "mean",
) -> None:
    """Write the pairs for other tools; the background of crops is filled from the masks first."""
    from ovseg.mining.export import FORMATS

    typer.echo(FORMATS[format.value](run, out, fill))


if __name__ == "__main__":
    main()
