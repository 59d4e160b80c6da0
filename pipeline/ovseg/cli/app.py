"""The command `ovseg`: adapted CLIPs in other layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovseg.cli.entry import run_app

app = typer.Typer(
    help="Use and pass on adapted CLIPs. Mining has its own command, ovseg-mine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Output folder; must not exist.")]


@app.callback()
def callback() -> None:
    """Use and pass on adapted CLIPs."""


def main() -> None:
    """Entry point."""
    run_app(app)


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
    checkpoint: Annotated[Path, typer.Argument(help="A CLIP checkpoint that OVSeg's authors released.")],
    out: Out,
    model: Annotated[str, typer.Option(help="Its open_clip name.")] = "ViT-L-14-quickgelu",
) -> None:
    """Read a released OVSeg CLIP, mask prompts included, into a folder that everything here loads."""
    from ovseg.clip.convert import convert_clip

    convert_clip(checkpoint, model, out)
    typer.echo(f"{out} is ready: clip.model=local-dir:{out}")


if __name__ == "__main__":
    main()
