"""What both commands do around typer: logging, errors in one line, an exit code that is never 0 after trouble."""

from __future__ import annotations

import logging
import sys

import typer

from ovseg.core.errors import OvsegError

INTERRUPTED = 130


def run_app(app: typer.Typer) -> None:
    """Run a typer app as this process."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "huggingface_hub", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app(standalone_mode=True)
    except OvsegError as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer has made that of Ctrl-C
            typer.echo("Stopped. What is finished is kept: run the same command again to continue.", err=True)
        raise
