"""`ovseg data`: published data sets on this machine, with or without DVC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovseg.cli.entry import Commands
from ovseg.cli.examples import show_example

data = typer.Typer(
    cls=Commands,
    help=show_example(
        "Get, link and check published data sets. They are COCO, ADE20K, Pascal VOC and Pascal Context.\n\n"
        "Example: ovseg data get coco"
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
)

Dataset = Annotated[str, typer.Argument(help="coco, ade20k, pascal_voc or pascal_context.")]
Parts = Annotated[list[str] | None, typer.Argument(help="Parts of the data set, e.g. val2017; all by default.")]
NAMED = 10  # files that `verify` names
Root = Annotated[Path, typer.Option(help="Folder of the data sets.")]


@data.command()
def status(
    dataset: Annotated[str | None, typer.Argument(help="One data set; all by default.")] = None,
    root: Root = Path("data"),
) -> None:
    """Show what is there, what is missing, and what the rest takes. That is its disk space and time.

    Example: ovseg data status coco
    """
    from ovseg.datasets.fetch.releases import parts_of, releases
    from ovseg.datasets.fetch.status import format_states, part_state

    names = [dataset] if dataset else list(releases())
    typer.echo(format_states([part_state(part, root / name) for name in names for part in parts_of(name)], root))


@data.command()
def get(
    dataset: Dataset,
    parts: Parts = None,
    root: Root = Path("data"),
    mirror: Annotated[
        str | None, typer.Option(help="Address of a folder with the same files.", envvar="OVSEG_MIRROR")
    ] = None,
    archive: Annotated[Path | None, typer.Option(exists=True, help="Archive of a part, downloaded by hand.")] = None,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep archives after verification, as with OVSEG_KEEP_ARCHIVES=1.")
    ] = False,
) -> None:
    """Download, unpack and verify. Run it again after a stop and it continues.

    Example: ovseg data get coco
    """
    from ovseg.core.errors import OvsegError
    from ovseg.datasets.fetch.parts import KEEP_ARCHIVES, fetch, verify
    from ovseg.datasets.fetch.releases import parts_of
    from ovseg.datasets.fetch.status import format_states, part_state
    from ovseg.engine.download import is_on

    selected, keep_archives = parts_of(dataset, tuple(parts or ())), keep_archives or is_on(KEEP_ARCHIVES)
    owners = [part for part in selected if archive and archive.name in [file.name for file in part.files]] or selected
    if archive and len(owners) > 1:
        raise OvsegError(f"name the part of {dataset} that {archive} is: {', '.join(part.name for part in selected)}")
    typer.echo(format_states([part_state(part, root / dataset) for part in selected], root), err=True)
    for part in selected:
        fetch(part, root / dataset, mirror, archive if part in owners else None)
        counts = verify(part, root / dataset, keep_archives=keep_archives)
        typer.echo(f"{dataset} {part.name}: {counts['files']:,} files, {counts['bytes'] / 1e9:.1f} GB, verified")


@data.command()
def link(
    dataset: Dataset,
    source: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder that holds it, unpacked.")],
    parts: Parts = None,
    root: Root = Path("data"),
) -> None:
    """Use a copy that is elsewhere: verify it and link to it. Parts that are not there are listed.

    Example: ovseg data link coco ../coco
    """
    from ovseg.core.errors import OvsegError
    from ovseg.datasets.fetch.parts import holds_any
    from ovseg.datasets.fetch.parts import link as link_part
    from ovseg.datasets.fetch.releases import parts_of

    selected = parts_of(dataset, tuple(parts or ()))
    present = [part for part in selected if parts or holds_any(part, source)]
    if not present:
        paths = ", ".join(holding.path for part in selected for holding in part.holds)
        raise OvsegError(f"{source} has no path of {dataset}: {paths}")
    for part in present:
        counts = link_part(part, root / dataset, source)
        typer.echo(f"{dataset} {part.name}: {counts['files']:,} files linked to {source.resolve()}, verified")
    for part in selected:
        if part not in present:
            typer.echo(f"{dataset} {part.name}: not in {source}")


@data.command()
def verify(
    dataset: Dataset,
    parts: Parts = None,
    root: Root = Path("data"),
    full: Annotated[bool, typer.Option("--full", help="Read every file again instead of comparing sizes.")] = False,
) -> None:
    """Compare the files with their manifest. The exit code is 1 if a file is missing or changed, and the remedy is said.

    Example: ovseg data verify coco
    """
    from ovseg.datasets.fetch.manifest import changed_files, read_manifest
    from ovseg.datasets.fetch.parts import is_linked, manifest_path
    from ovseg.datasets.fetch.releases import parts_of

    failed = False
    for part in parts_of(dataset, tuple(parts or ())):
        rows = read_manifest(manifest_path(part, root / dataset))
        changed = changed_files(root / dataset, rows, full=full)
        result = f"{len(changed):,} missing or changed" if changed else "as verified"
        typer.echo(f"{dataset} {part.name}: {len(rows):,} files, {result}")
        if changed:
            failed = True
            typer.echo("\n".join(f"  {root / dataset / path}" for path in changed[:NAMED]))
            more = f"{len(changed) - NAMED:,} more. " if len(changed) > NAMED else ""
            remedy = f"Delete those that are there and run `ovseg data get {dataset} {part.name}`"
            if is_linked(part, root / dataset):
                remedy = f"Mend them where they are linked from, or `ovseg data link {dataset}` another copy"
            typer.echo(f"  {more}{remedy}")
    if failed:
        raise typer.Exit(1)
