"""The command `ovseg`: segment images with any words; data sets, plans and models around it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ovseg.cli.data import data
from ovseg.cli.entry import run_app

app = typer.Typer(
    help="Segment images with any words; data sets, plans and models around it. Mining has its own command, ovseg-mine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


app.add_typer(data, name="data")


class Classifier(StrEnum):  # noqa: D101
    clip = "clip"
    proposals = "proposals"
    ensemble = "ensemble"


class Synonyms(StrEnum):  # noqa: D101
    max = "max"
    joined = "joined"


class Templates(StrEnum):  # noqa: D101
    none = "none"
    single = "single"
    vild = "vild"


class Precision(StrEnum):  # noqa: D101
    fp32 = "fp32"
    bf16 = "bf16"


Out = Annotated[Path, typer.Option(help="Output folder; must not exist.")]


@app.callback()
def callback() -> None:
    """Segment images with any words; data sets, plans and models around it."""


def main() -> None:
    """Entry point."""
    run_app(app)


@app.command()
def segment(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of them.")],
    names: Annotated[str, typer.Option(help='What to look for: "cat, sofa, grass", or a file with a name a line.')],
    out: Annotated[Path, typer.Option(help="Folder of overlays, label maps and JSON files.")] = Path("segmented"),
    clip: Annotated[Path, typer.Option(help="The CLIP that names regions.")] = Path("models/prompt"),
    network: Annotated[Path, typer.Option(help="The proposal network.")] = Path("models/proposal_network"),
    classifier: Annotated[Classifier, typer.Option(help="Whose word counts.")] = Classifier.ensemble,
    weight: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of CLIP in the ensemble; calibrated by default.")
    ] = None,
    mask_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="What CLIP sees of a soft mask; calibrated by default.")
    ] = None,
    others: Annotated[
        bool | None,
        typer.Option("--others/--no-others", help="One more class for the rest; by default if one name is given."),
    ] = None,
    synonyms: Annotated[
        Synonyms, typer.Option(help='What "road | route" means: the better one, or one text.')
    ] = Synonyms.max,
    templates: Annotated[Templates, typer.Option(help="Sentences around each name.")] = Templates.vild,
    precision: Annotated[Precision, typer.Option(help="Of CLIP.")] = Precision.fp32,
    device: Annotated[str, typer.Option(help="cpu, cuda:0, ... or auto.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Regions in one forward pass.")] = 64,
) -> None:
    """Segment images with any words."""
    from ovseg.cli.segment import segment_with

    segment_with(
        images,
        names,
        out,
        clip,
        network,
        classifier.value,
        weight,
        mask_threshold,
        others,
        synonyms.value,
        templates.value,
        precision.value,
        device,
        batch_size,
    )


@app.command()
def convert_benchmark(
    name: Annotated[str, typer.Argument(help="ade150, ade847, pc59, pc459, pas20, voc, cocostuff or cocostuff156.")],
    release: Annotated[Path, typer.Argument(help="Folder that the official release was unpacked in.")],
    out: Annotated[Path, typer.Argument(help="Folder of the benchmark, e.g. data/benchmarks/ade150.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Use what there is of a release.")] = False,
) -> None:
    """Bring an official release into the benchmark layout (docs/evaluation.md). Stopped, it goes on where it was."""
    from ovseg.datasets.official import convert, format_counts

    counts = convert(name, release, out, workers=workers, allow_missing=allow_missing)
    typer.echo(f"{out}\n{format_counts(name, counts)}")


@app.command()
def export_clip(
    model: Annotated[Path, typer.Argument(help="models/finetune, models/prompt, or another adapted CLIP.")],
    out: Out,
    half: Annotated[bool, typer.Option("--half", help="Store weights in half precision.")] = False,
) -> None:
    """Write a CLIP as a repository of the Hugging Face Hub: stock open_clip loads it by hf-hub:OWNER/NAME."""
    from ovseg.clip.export import export_clip

    export_clip(model, out, half)
    typer.echo(f"{out} is ready. To publish it: hf upload OWNER/NAME {out}")


@app.command()
def convert_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="A CLIP, or a segmenter that OVSeg's authors released.")],
    out: Out,
    model: Annotated[
        str | None, typer.Option(help="open_clip name of the CLIP; by default told from its sizes.")
    ] = None,
) -> None:
    """Read a released OVSeg CLIP, mask prompts included, into a folder that everything here loads.

    Of a released segmenter both its proposal network and its CLIP are read, into OUT/proposal_network and OUT/clip.
    """
    from ovseg.clip.convert import convert_clip, read_state
    from ovseg.proposals.convert import CLIP, NETWORK, convert_segmenter, is_segmenter

    if is_segmenter(read_state(checkpoint)):
        convert_segmenter(checkpoint, model, out)
        typer.echo(f"{out} is ready: ovseg segment IMAGES --network {out / NETWORK} --clip {out / CLIP} --names ...")
    else:
        convert_clip(checkpoint, model, out)
        typer.echo(f"{out} is ready: clip.model=local-dir:{out}")


@app.command()
def plan(
    params: Annotated[Path, typer.Option(help="Parameters, e.g. recipes/coco-vitl.yaml.")] = Path("params.yaml"),
    gpu: Annotated[str | None, typer.Option(help="cpu, or a GPU: a100, a5000, ...; default: this machine's.")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="Number of GPUs; default: this machine's, or one.")] = None,
) -> None:
    """Show what `dvc repro` would handle, write, download and take; do nothing.

    Example: ovseg plan --params recipes/coco-vitl.yaml --gpu a100 --gpus 8
    """
    from ovseg.cli.plan import find_machine, format_plan, plan_pipeline
    from ovseg.core.params import read_params
    from ovseg.datasets.fetch.status import free_space

    machine = find_machine(gpu, gpus)
    typer.echo(format_plan(plan_pipeline(read_params(params), machine), machine, free_space(Path())))


if __name__ == "__main__":
    main()
