"""`ovseg data`: published data sets on this machine, without DVC too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(help="Get, link and check COCO, ADE20K, Pascal VOC and Pascal Context.", no_args_is_help=True)

Dataset = Annotated[str, typer.Argument(help="coco, ade20k, pascal_voc or pascal_context.")]
Parts = Annotated[list[str] | None, typer.Argument(help="Parts of it, e.g. val2017; all by default.")]
Root = Annotated[Path, typer.Option(help="Folder of the data sets.")]


@data.command()
def status(
    dataset: Annotated[str | None, typer.Argument(help="One of them; all by default.")] = None,
    root: Root = Path("data"),
) -> None:
    """What is there, what is missing, and the disk and time that it takes."""
    from ovseg.datasets.fetch.releases import parts_of, releases
    from ovseg.datasets.fetch.status import state, table

    names = [dataset] if dataset else list(releases())
    typer.echo(table([state(part, root / name) for name in names for part in parts_of(name)], root))


@data.command()
def get(
    dataset: Dataset,
    parts: Parts = None,
    root: Root = Path("data"),
    mirror: Annotated[
        str | None, typer.Option(help="Address of a folder with the same files.", envvar="OVSEG_MIRROR")
    ] = None,
    archive: Annotated[Path | None, typer.Option(exists=True, help="The archive of a part, fetched by hand.")] = None,
    keep_archives: Annotated[bool, typer.Option("--keep-archives", help="Leave archives there once verified.")] = False,
) -> None:
    """Download, unpack and verify. Stopped, it goes on where it was."""
    from ovseg.core.errors import OvsegError
    from ovseg.datasets.fetch.parts import fetch, verify
    from ovseg.datasets.fetch.releases import parts_of
    from ovseg.datasets.fetch.status import state, table

    wanted = parts_of(dataset, tuple(parts or ()))
    owners = [part for part in wanted if archive and archive.name in [file.name for file in part.files]] or wanted
    if archive and len(owners) > 1:
        raise OvsegError(f"say which part of {dataset} {archive} is: {', '.join(part.name for part in wanted)}")
    typer.echo(table([state(part, root / dataset) for part in wanted], root), err=True)
    for part in wanted:
        fetch(part, root / dataset, mirror, archive if part in owners else None)
        counts = verify(part, root / dataset, keep_archives=keep_archives)
        typer.echo(f"{dataset} {part.name}: {counts['files']:,} files, {counts['bytes'] / 1e9:.1f} GB, verified")


@data.command()
def link(
    dataset: Dataset,
    there: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder that holds it, unpacked.")],
    parts: Parts = None,
    root: Root = Path("data"),
) -> None:
    """Use data that lies elsewhere: it is verified and linked, not copied. Parts that are not there are named."""
    from ovseg.core.errors import OvsegError
    from ovseg.datasets.fetch.parts import holds_any
    from ovseg.datasets.fetch.parts import link as link_part
    from ovseg.datasets.fetch.releases import parts_of

    wanted = parts_of(dataset, tuple(parts or ()))
    found = [part for part in wanted if parts or holds_any(part, there)]
    if not found:
        paths = ", ".join(holding.path for part in wanted for holding in part.holds)
        raise OvsegError(f"{there} has nothing of {dataset}: {paths}")
    for part in found:
        counts = link_part(part, root / dataset, there)
        typer.echo(f"{dataset} {part.name}: {counts['files']:,} files linked to {there.resolve()}, verified")
    for part in wanted:
        if part not in found:
            typer.echo(f"{dataset} {part.name}: not in {there}")


@data.command()
def verify(
    dataset: Dataset,
    parts: Parts = None,
    root: Root = Path("data"),
    full: Annotated[bool, typer.Option("--full", help="Read every file again, not only its size.")] = False,
) -> None:
    """Compare what is there with its manifest; exits with 1 if a file is missing or changed."""
    from ovseg.datasets.fetch.manifest import changed, read_manifest
    from ovseg.datasets.fetch.parts import MANIFESTS
    from ovseg.datasets.fetch.releases import parts_of

    bad = 0
    for part in parts_of(dataset, tuple(parts or ())):
        rows = read_manifest(root / dataset / MANIFESTS / f"{part.name}.tsv")
        wrong = changed(root / dataset, rows, full=full)
        bad += len(wrong)
        said = f"{len(wrong):,} missing or changed, the first: {wrong[0]}" if wrong else "as verified"
        typer.echo(f"{dataset} {part.name}: {len(rows):,} files, {said}")
    if bad:
        raise typer.Exit(1)
