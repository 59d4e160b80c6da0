"""`ovseg plan`: what `dvc repro` would handle, take and write, before it is started."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plan(
    params: Annotated[Path, typer.Option(help="Parameters, e.g. recipes/coco-vitl.yaml.")] = Path("params.yaml"),
    gpu: Annotated[
        str | None, typer.Option(help="What it would run on: a100, h100, a5000, ... or cpu; default: what is here.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="How many of them; default: all that are here, or one.")
    ] = None,
) -> None:
    """Say what the pipeline would handle, take and write with these parameters; do nothing.

    Rates are measured, stated or estimated, and each says which. `dvc repro --dry --force` says the order of the stages.
    """
    from ovseg.cli.plans.amounts import amounts
    from ovseg.cli.plans.data import data_rows
    from ovseg.cli.plans.rates import clip_of, machine
    from ovseg.cli.plans.stages import memory, stage_rows
    from ovseg.cli.plans.table import table
    from ovseg.core.params import read_params
    from ovseg.engine.runtime import from_environment

    read, root = read_params(params), Path()
    on = machine(from_environment(), gpu, gpus, small=clip_of(read.clip.model) == "demo")
    rows = [*data_rows(read, on, root), *stage_rows(read, amounts(read, root), on, root)]
    typer.echo(table(rows, on, memory(read)))
