"""The command `ovseg`: open-vocabulary segmentation; data sets, plans and models around it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ovseg.cli.data import data
from ovseg.cli.entry import Commands, run_app
from ovseg.cli.examples import show_example
from ovseg.cli.options import path_option, with_options
from ovseg.core.options import CropOptions, Orientation, SegmentOptions

app = typer.Typer(
    cls=Commands,
    help=show_example(
        "Open-vocabulary segmentation; data sets, plans and models around it. Mining has its own command, ovseg-mine.\n\n"
        'Example: ovseg segment photos --names "kite, tree | bush, grass" --out segmented'
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


app.add_typer(data, name="data")


COMPARED = [Path("models/base"), Path("models/prompt")]  # the side by side of `ovseg app`
Classifier = Literal["clip", "proposals", "ensemble"]
Turn = Annotated[
    Orientation,
    typer.Option(help='Whether images are turned as their EXIF orientation says, or used as stored ("raw").'),
]
Out = Annotated[Path, typer.Option(help="Output folder; must not exist.")]
Device = Annotated[
    str | None, typer.Option(help="Torch device: cpu, cuda:0, ..., or auto; by default $OVSEG_DEVICE, or auto.")
]


@app.callback()
def callback() -> None:
    """Open-vocabulary segmentation; data sets, plans and models around it."""


def main() -> None:
    """Run the command as this process."""
    run_app(app)


@app.command()
@with_options
def segment(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of them.")],
    names: Annotated[
        str, typer.Option(help='Names to look for: "cat, sofa, grass", or a file with one name per line.')
    ],
    options: SegmentOptions,
    crop: CropOptions,
    out: Annotated[Path, typer.Option(help="Folder of overlays, label maps and JSON files.")] = Path("segmented"),
    clip: Annotated[Path, typer.Option(help="Folder of the CLIP that classifies proposals.")] = Path("models/prompt"),
    network: Annotated[Path, typer.Option(help="Folder of the proposal network.")] = Path("models/proposal_network"),
    classifier: Annotated[Classifier, typer.Option(help="What classifies proposals.")] = "ensemble",
    weight: Annotated[
        float | None, typer.Option(min=0, max=1, help="Weight of CLIP in the ensemble; by default the calibrated one.")
    ] = None,
    mask_threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Probability above which a pixel of a mask is foreground; by default the calibrated one."
        ),
    ] = None,
    others: Annotated[
        bool | None,
        typer.Option("--others/--no-others", help="One more class for the rest; by default if one name is given."),
    ] = None,
    device: Device = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Number of crops that CLIP is given at a time; by default $OVSEG_BATCH_SIZE, or 64."),
    ] = None,
    orientation: Turn = "exif",
) -> None:
    """Segment images with any class names.

    What is not given is as the stage `calibrate` used and chose it for the same CLIP and proposal network, if it has run.

    Example: ovseg segment photos --names "kite, tree | bush, grass" --out segmented
    """
    from ovseg.cli.segment import segment_with
    from ovseg.engine.runtime import from_environment

    runtime = from_environment(device=device, batch_size=batch_size)
    segment_with(
        images=images,
        names=names,
        out=out,
        clip=clip,
        network=network,
        classifier=classifier,
        weight=weight,
        mask_threshold=mask_threshold,
        others=others,
        options=options,
        crop=crop,
        device=runtime.devices[0],
        batch_size=runtime.batch_size,
        orientation=orientation,
    )


@app.command("app")
@with_options
def serve_app(
    options: SegmentOptions,
    crop: CropOptions,
    clip: Annotated[
        list[Path], typer.Option(help="Folder of a CLIP; give several to compare them side by side.")
    ] = COMPARED,
    network: Annotated[Path, typer.Option(help="Folder of the proposal network.")] = Path("models/proposal_network"),
    names: Annotated[str, typer.Option(help='Words that the page starts with: "cat, sofa | couch".')] = "",
    examples: Annotated[Path | None, typer.Option(help="Folder of images, of which the first 8 are offered.")] = None,
    run: Annotated[
        Path | None,
        path_option(help="Folder of a run of ovseg-mine, or data/: adds a tab of its pairs; a path or a URL."),
    ] = None,
    images: Annotated[
        Path | None, path_option(help="Folder of the images of --run; by default the one that the run states.")
    ] = None,
    marks: Annotated[
        Path | None,
        path_option(
            help="CSV of pairs marked as wrong; by default wrong_pairs.csv in the run, or here if that is a URL."
        ),
    ] = None,
    device: Device = None,
    host: Annotated[str, typer.Option(help="Address to listen at; by default this machine alone.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; by default a free one from 7860.")] = None,
    share: Annotated[bool, typer.Option("--share", help="Make a public link through Gradio's servers.")] = False,
) -> None:
    """Segment images and see mined pairs in the browser. It needs an extra: pip install -e '.[app]' in the clone.

    What is not given is as the stage `calibrate` used and chose it for the last CLIP, if it has run.

    Example: ovseg app --examples photos --names "kite, tree | bush, grass"
    """
    from ovseg.app.gradio_extra import import_gradio

    import_gradio()  # its absence is said before models are loaded
    from ovseg.cli.browser_app import run_app as run_page
    from ovseg.engine.runtime import from_environment

    run_page(
        clips=clip,
        network=network,
        words=names,
        examples=examples,
        run=run,
        images=images,
        marks=marks,
        options=options,
        crop=crop,
        device=from_environment(device=device).devices[0],
        host=host,
        port=port,
        share=share,
    )


@app.command()
def convert_benchmark(
    name: Annotated[str, typer.Argument(help="ade150, ade847, pc59, pc459, pas20, voc, cocostuff or cocostuff156.")],
    release: Annotated[Path, typer.Argument(help="Folder that the official release was unpacked in.")],
    out: Annotated[Path, typer.Argument(help="Folder of the benchmark, such as data/benchmarks/ade150.")],
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Convert the files that are there.")] = False,
    orientation: Turn = "exif",
) -> None:
    """Convert an official release to the benchmark layout.

    The layout is that of docs/evaluation.md. After a stop, run it again to continue.

    Example: ovseg convert-benchmark ade150 ADEChallengeData2016 data/benchmarks/ade150
    """
    from ovseg.datasets.official import convert, format_counts

    counts = convert(name, release, out, workers=workers, allow_missing=allow_missing, orientation=orientation)
    typer.echo(f"{out}\n{format_counts(name, counts)}")


@app.command()
def export_clip(
    model: Annotated[Path, typer.Argument(help="Folder of the CLIP: models/finetune, models/prompt, or another one.")],
    out: Out,
    half: Annotated[bool, typer.Option("--half", help="Store weights in half precision.")] = False,
) -> None:
    """Write a CLIP as a repository for the Hugging Face Hub. open_clip loads it by hf-hub:OWNER/NAME.

    Example: ovseg export-clip models/prompt --out my-clip --half
    """
    from ovseg.clip.export import export_clip

    export_clip(model, out, half)
    typer.echo(f"{out} is ready. To publish it: hf upload OWNER/NAME {out}")


@app.command()
def convert_checkpoint(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Released checkpoint of a CLIP or of a whole segmenter, or folder of a CLIP of transformers."
        ),
    ],
    out: Out,
    model: Annotated[
        str | None, typer.Option(help="open_clip name of the CLIP; by default found from its sizes.")
    ] = None,
) -> None:
    """Convert a released checkpoint to folders of models.

    A CLIP with its mask prompts, or a CLIP of transformers, is converted to one folder; a whole segmenter to two, its proposal
    network to OUT/proposal_network and its CLIP to OUT/clip.

    Example: ovseg convert-checkpoint released.pth --out models/released
    """
    from ovseg.clip.convert import convert_clip
    from ovseg.core.checkpoints import read_weights
    from ovseg.proposals.convert import CLIP, NETWORK, convert_segmenter, is_segmenter

    if checkpoint.is_dir():
        from ovseg.clip.from_transformers import convert_folder

        convert_folder(checkpoint, out)
        typer.echo(f"{out} is ready: clip.model=local-dir:{out}")
    elif is_segmenter(read_weights(checkpoint)):
        convert_segmenter(checkpoint, model, out)
        typer.echo(f"{out} is ready: ovseg segment IMAGES --network {out / NETWORK} --clip {out / CLIP} --names ...")
    else:
        convert_clip(checkpoint, model, out)
        typer.echo(f"{out} is ready: clip.model=local-dir:{out}")


@app.command()
def extract_weights(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of torch.save that holds other objects than tensors.")],
    out: Annotated[Path, typer.Argument(help="Safetensors file to write; must not exist.")],
) -> None:
    """Copy a checkpoint's tensors to a safetensors file. No code that the checkpoint names is run.

    Example: ovseg extract-weights released.pth weights.safetensors
    """
    from ovseg.core.foreign_objects import extract_weights

    number, objects = extract_weights(checkpoint, out)
    typer.echo(f"{out} holds {number} tensors; left out: {', '.join(objects) or 'nothing'}")


@app.command()
def plan(
    params: Annotated[Path, typer.Option(help="Parameters, e.g. recipes/coco-vitl.yaml.")] = Path("params.yaml"),
    gpu: Annotated[str | None, typer.Option(help="cpu, or a GPU: a100, a5000, ...; default: this machine's.")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="Number of GPUs; default: this machine's, or one.")] = None,
) -> None:
    """Show what `dvc repro` would write, download and take.

    Nothing is done.

    Example: ovseg plan --params recipes/coco-vitl.yaml --gpu a100 --gpus 8
    """
    from ovseg.cli.plan import find_machine, format_plan, plan_pipeline
    from ovseg.core.params import read_params
    from ovseg.datasets.fetch.status import free_space

    machine = find_machine(gpu, gpus)
    typer.echo(format_plan(plan_pipeline(read_params(params), machine), machine, free_space(Path())))


if __name__ == "__main__":
    main()
