"""What all commands share: logging, errors as one line, and an exit code that is not 0 after an error."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from ovseg.cli.examples import show_example
from ovseg.core.errors import OvsegError, describe_os_error
from ovseg.core.files import expand_home
from ovseg.engine.process import end_process, start_process
from ovseg.engine.terminal import fit_terminal, log_to_stderr

INTERRUPTED = 130


class Commands(TyperGroup):
    """A group of commands whose help shows an example.

    In their arguments `~` is the home folder, also behind "=" and ":", where shells leave it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: D102
        return super().parse_args(ctx, [expand_home(argument) for argument in args])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, with the example in its help on lines of its own."""
        command = super().get_command(ctx, cmd_name)
        if command is not None and command.help:
            command.help = show_example(command.help)
        return command


def run_app(app: typer.Typer) -> NoReturn:
    """Run a typer app as this process, and end the process with its exit code."""
    start_process()
    end_process(exit_code(app))


def exit_code(app: typer.Typer) -> int:
    """Run a typer app with the arguments of this process and return the exit code."""
    log_to_stderr()
    for library in ("aiobotocore", "botocore", "httpx", "huggingface_hub", "PIL"):
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        app(standalone_mode=True)
    except OvsegError as error:
        message = str(error)
    except Exception as error:
        if not (described := describe_os_error(error)):
            raise
        message = described
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer's exit code after Ctrl-C
            message = "Stopped. Finished work is kept: run the same command again to continue."
            typer.echo(fit_terminal(message), err=True)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    else:
        return 0
    typer.secho(fit_terminal(f"Error: {message}"), fg="red", err=True)
    return 1
