"""Every command's help ends with an example."""

from __future__ import annotations

import pytest
import typer

from ovseg.cli.app import app
from ovseg.cli.data import data
from ovseg.cli.mine import app as mine


@pytest.mark.parametrize(("program", "group"), [("ovseg", app), ("ovseg data", data), ("ovseg-mine", mine)])
def test_the_help_of_every_command_has_an_example(program: str, group: typer.Typer) -> None:
    for command in group.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        assert f"Example: {program} {name}" in (command.callback.__doc__ or ""), name
