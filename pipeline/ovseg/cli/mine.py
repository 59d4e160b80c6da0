"""The command `ovseg-mine`: mining on its own, without DVC or git.

Its options are those of the steps' options models. Nothing heavy is imported before a command runs, so that `--help` answers
at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ovseg.cli.entry import Commands, run_app
from ovseg.cli.examples import show_example
from ovseg.cli.options import path_option, with_options
from ovseg.cli.runtime import CpuRuntime, DeviceRuntime, ModelRuntime
from ovseg.core import options as opts
from ovseg.core.paths import is_remote, to_path

if TYPE_CHECKING:
    from ovseg.engine.runtime import Runtime

app = typer.Typer(
    cls=Commands,
    help=show_example(
        "Mine mask-noun pairs: captions and images in, WebDataset shards of masked crops out.\n\n"
        "Example: ovseg-mine run --images photos --captions captions.json --proposals sam2:facebook/sam2.1-hiera-large "
        "--clip ViT-B-16:openai --out mined"
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


Images = Annotated[Path, path_option(help="Folder of the images, or of WebDataset shards; a path or a URL.")]
Table = Annotated[Path, path_option(help="Folder of that table; a path or a URL.")]
Out = Annotated[Path, path_option(help="Output folder; a path or a URL such as s3://bucket/mined.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done and its cost; do nothing.")]
Format = Annotated[
    Literal["open_clip", "csv", "coco"], typer.Option(help="Shards or CSV for open_clip, or a COCO JSON of the masks.")
]


def _run_folder(text: str) -> Path:
    """The folder of a run, of which the user may name the folder of shards."""
    path = to_path(text)
    named = path if path.name else path.absolute()
    return named.parent if named.name == "shards" else path


Run = Annotated[
    Path,
    typer.Argument(
        parser=_run_folder, metavar="RUN", help="Output folder of a run, or its folder of shards; a path or a URL."
    ),
]


def main() -> None:
    """Run the command as this process."""
    run_app(app)


@app.command()
@with_options
def run(options: opts.RunOptions, out: Out, runtime: ModelRuntime, dry_run: DryRun = False) -> None:
    """Do all steps: index, nouns, propose, score, select, shards. After a kill, run it again and it continues.

    Example: ovseg-mine run --images photos --captions captions.json --proposals sam2:facebook/sam2.1-hiera-large
    --clip ViT-B-16:openai --out mined
    """
    from ovseg.mining.run import mine_pairs

    if dry_run:
        typer.echo(_plan(options, out, runtime.runtime()))
        return
    _report(mine_pairs(options, out, runtime.runtime()), options, out)


def _report(counts: dict[str, dict[str, int]], options: opts.RunOptions, out: Path) -> None:
    """Write the page of pairs of a run, and print its summary."""
    from ovseg.report.browser import write_browser
    from ovseg.report.run_text import summarize_run

    write_browser(out, options.index.images, out / "pairs.html", number=500)
    typer.echo(summarize_run(counts, out))


@app.command()
@with_options
def retry(run: Run, runtime: ModelRuntime) -> None:
    """Try again what failed in a run for a reason that may pass.

    Reading a file is such a reason. What follows from it is done again, too.

    Example: ovseg-mine retry mined
    """
    from dataclasses import replace

    from ovseg.mining.run import mine_pairs, read_options

    options = read_options(run)
    _report(mine_pairs(options, run, replace(runtime.runtime(), retry=True)), options, run)


def _plan(options: opts.RunOptions, out: Path, runtime: Runtime) -> str:
    """The plan of a run, after the checks that would stop the run at once.

    The encoder's speed is measured if that needs no download.

    Raises:
        OvsegError: a file is missing, or the tagger or the CLIP cannot be loaded.
    """
    from ovseg.cli.plan import find_machine, format_plan, plan_mining
    from ovseg.clip.load import load_clip
    from ovseg.clip.speed import crops_per_second
    from ovseg.datasets.fetch.status import free_space
    from ovseg.engine.weight_files import skip_downloads
    from ovseg.mining.run import check_inputs
    from ovseg.mining.tagger import load_tagger

    check_inputs(options)
    load_tagger(options.nouns.model)
    is_path = options.clip.model.startswith(("local-dir:", "hf-hub:"))
    weights = options.clip.pretrained if is_path else "random"
    machine = find_machine(None, len(runtime.devices))._replace(cores=runtime.workers)
    note = (
        f"\nThe speed of {options.clip.model} is not measured: a plan downloads nothing, and it is not on this machine."
    )
    with skip_downloads():
        clip = load_clip(options.clip.model, weights, runtime.devices[0], options.score.precision)
        machine, note = machine._replace(crops_per_second=crops_per_second(clip) * len(runtime.devices)), ""
    free = free_space(runtime.work if is_remote(out) else out.absolute())
    return format_plan(plan_mining(options, machine), machine, free) + note


@app.command()
@with_options
def index(options: opts.IndexOptions, out: Out, runtime: CpuRuntime) -> None:
    """List images and captions, one row per image. What is missing or broken is recorded.

    Example: ovseg-mine index --images photos --captions captions.json --out mined/index
    """
    from ovseg.mining.index import build_index

    build_index(out, runtime.runtime(), options)


@app.command()
@with_options
def nouns(index: Table, out: Out, options: opts.NounsOptions, runtime: CpuRuntime) -> None:
    """Extract the nouns of each image's captions.

    Example: ovseg-mine nouns --index mined/index --out mined/nouns
    """
    from ovseg.mining.nouns import extract_nouns

    extract_nouns(index, out, runtime.runtime(), options)


@app.command()
@with_options
def propose(index: Table, images: Images, options: opts.ProposeOptions, out: Out, runtime: DeviceRuntime) -> None:
    """Store the mask proposals of each image as RLE.

    Example: ovseg-mine propose --index mined/index --images photos --proposals ground_truth:masks.json
    --out mined/proposals
    """
    from ovseg.mining.propose import propose_masks

    propose_masks(index, images, out, runtime.runtime(), options)


@app.command()
@with_options
def score(
    index: Table,
    images: Images,
    nouns: Table,
    proposals: Table,
    clip: opts.ClipOptions,
    out: Out,
    options: opts.ScoreOptions,
    crop: opts.CropOptions,
    runtime: ModelRuntime,
) -> None:
    """Compare each noun with each mask of its image, by CLIP.

    Example: ovseg-mine score --index mined/index --images photos --nouns mined/nouns
    --proposals mined/proposals --clip ViT-B-16:openai --out mined/candidates
    """
    from ovseg.mining.score import score_nouns

    score_nouns(index, images, nouns, proposals, out, runtime.runtime(), clip, options, crop)


@app.command()
@with_options
def near_duplicates(
    index: Table,
    images: Images,
    benchmark: Annotated[
        list[Path],
        path_option(help="Folder of a benchmark, see docs/evaluation.md; give it several times for several."),
    ],
    clip: opts.ClipOptions,
    out: Out,
    options: opts.NearDuplicatesOptions,
    runtime: ModelRuntime,
) -> None:
    """Find mined images that are nearly an image of a benchmark. `select --near-duplicates` leaves them out.

    Example: ovseg-mine near-duplicates --index mined/index --images photos --benchmark data/benchmarks/ade150
    --clip ViT-B-16:openai --out mined/near_duplicates
    """
    from ovseg.mining.near_duplicates import find_near_duplicates

    find_near_duplicates(index, images, benchmark, out, runtime.runtime(), clip, options)


@app.command()
@with_options
def select(candidates: Table, proposals: Table, out: Out, options: opts.SelectOptions, runtime: CpuRuntime) -> None:
    """Choose the candidates that become pairs.

    Example: ovseg-mine select --candidates mined/candidates --proposals mined/proposals
    --min-similarity 0.2 --out strict/pairs
    """
    from ovseg.mining.select import select_pairs

    select_pairs(candidates, proposals, out, runtime.runtime(), options)


@app.command()
@with_options
def shards(
    index: Table,
    images: Images,
    proposals: Table,
    pairs: Table,
    out: Out,
    options: opts.ShardsOptions,
    runtime: CpuRuntime,
) -> None:
    """Write pairs as WebDataset tars of masked crops.

    Example: ovseg-mine shards --index mined/index --images photos --proposals mined/proposals
    --pairs mined/pairs --out mined/shards
    """
    from ovseg.mining.shards import write_shards

    write_shards(index, images, proposals, pairs, out, runtime.runtime(), options)


@app.command()
def inspect(
    run: Run,
    noun: Annotated[str | None, typer.Option(help="Only pairs of this noun.")] = None,
    number: Annotated[int, typer.Option(min=1, help="Number of pairs to show.")] = 10,
) -> None:
    """Show counts, frequent nouns and some pairs of a run.

    Example: ovseg-mine inspect mined --noun boat
    """
    from ovseg.report.run_text import describe_run

    typer.echo(describe_run(run, noun, number))


@app.command()
def verify(run: Run) -> None:
    """Check a run. Checksums and counts must agree, and every sample must be readable.

    Example: ovseg-mine verify mined
    """
    from ovseg.mining.verify import verify_shards

    typer.echo(verify_shards(run))


@app.command()
def search(
    run: Run,
    text: Annotated[str | None, typer.Option(help="What to search for, such as a noun.")] = None,
    image: Annotated[Path | None, path_option(help="Or an image, all of which is compared.")] = None,
    number: Annotated[int, typer.Option(min=1, help="Number of regions to show.")] = 24,
    out: Annotated[Path | None, path_option(help="HTML file; by default search.html in the run.")] = None,
    clip: Annotated[
        str | None, typer.Option(help="The CLIP that scored; by default the one that the run states.")
    ] = None,
    images: Annotated[
        Path | None, path_option(help="Folder of the images; by default the one that the run states.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device of CLIP: auto, cpu or cuda:N; by default $OVSEG_DEVICE, or auto.")
    ] = None,
) -> None:
    """Find the mined regions nearest to a text or an image. The result is a page of images.

    Example: ovseg-mine search mined --text "red kite"
    """
    from ovseg.engine.runtime import from_environment
    from ovseg.report.search import search_run

    if (text is None) == (image is None):
        raise typer.BadParameter("give either --text or --image")
    page, on = out or run / "search.html", from_environment(device=device).devices[0]
    typer.echo(search_run(run, page, text=text, image=image, number=number, clip=clip, images=images, device=on))


@app.command()
def export(
    run: Run,
    out: Out,
    format: Format,
    fill: Annotated[opts.Fill, typer.Option(help=opts.CropOptions.model_fields["fill"].description)] = "mean",
    images: Annotated[
        Path | None, path_option(help="Folder of the mined shards, for COCO; by default the one that the run states.")
    ] = None,
) -> None:
    """Write the pairs for other tools. The background of crops is filled from the masks first.

    Example: ovseg-mine export mined --format csv --out pairs
    """
    from ovseg.mining.export import FORMATS

    typer.echo(FORMATS[format](run, out, fill, images))


if __name__ == "__main__":
    main()
