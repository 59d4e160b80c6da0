"""What all commands share: logging, errors as one line, and an exit code that is not 0 after an error."""

from __future__ import annotations

import logging
import sys

import typer

from ovseg.core.errors import OvsegError

INTERRUPTED = 130


def run_app(app: typer.Typer) -> None:
    """Run a typer app as this process, and end the process with its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for library in ("httpx", "huggingface_hub", "PIL"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        app(standalone_mode=True)
    except OvsegError as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer's exit code after Ctrl-C
            typer.echo("Stopped. Finished work is kept: run the same command again to continue.", err=True)
        raise
