"""Command line options are made from the fields of options models."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from ovseg.cli import options as cli_options
from ovseg.cli.mine import app
from ovseg.cli.options import parse_source, with_options
from ovseg.core import options
from ovseg.core.errors import OvsegError
from ovseg.core.options import Options
from ovseg.proposals.sources import SOURCES


class Inner(Options):
    """A model in a model."""

    folder: options.FilePath
    """Folder of something."""


class Outer(Options):
    """A model with every kind of field that a command line can set."""

    inner: Inner
    """The other model."""
    name: str = "a"
    """A name."""
    number: options.PositiveInt | None = None
    """A number; none by default."""
    fraction: options.Fraction = 0.5
    """A fraction."""
    threshold: options.Threshold = 0.4
    """A threshold."""
    kind: Literal["x", "y"] = "y"
    """A kind."""
    captions: options.CaptionsPerImage = 1
    """A number, or all."""
    small: bool = False
    """A switch that is off."""
    large: bool = True
    """A switch that is on."""


def command(outer: Outer, out: Annotated[Path, typer.Option(help="Output.")], force: bool = False) -> None:
    """The command."""
    typer.echo(repr((outer, out, force)))


@pytest.fixture
def program() -> typer.Typer:
    program = typer.Typer()
    program.command()(with_options(command))
    return program


def output(program: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(program, [*arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_every_option_sets_its_field(program: typer.Typer) -> None:
    given = [
        "--name",
        "b",
        "--number",
        "2",
        "--fraction",
        "1",
        "--threshold",
        "0.1",
        "--kind",
        "x",
        "--captions",
        "all",
    ]
    switches = ["--small", "--no-large", "--force"]
    built = Outer(
        inner=Inner(folder=Path("f")),
        name="b",
        number=2,
        fraction=1.0,
        threshold=0.1,
        kind="x",
        captions="all",
        small=True,
        large=False,
    )
    text = output(program, "--folder", "f", "--out", "o", *given, *switches)
    assert text.strip() == repr((built, Path("o"), True))
    assert output(program, "--folder", "f", "--out", "o", "--captions", "1").strip() == repr(
        (Outer(inner=Inner(folder=Path("f"))), Path("o"), False)
    )


def test_a_command_knows_which_fields_were_given(tmp_path: Path) -> None:
    """A value that is given counts as given even if it is the default."""
    program = typer.Typer()

    @program.command()
    @with_options
    def fields(outer: Outer) -> None:
        """The command."""
        typer.echo(",".join(sorted(outer.model_fields_set)))

    assert output(program, "--folder", "f").strip() == "inner"
    assert output(program, "--folder", "f", "--name", "a", "--large", "--captions", "1").strip() == (
        "captions,inner,large,name"
    )


def test_help_has_the_text_the_default_and_the_range_of_each_field(program: typer.Typer) -> None:
    text = output(program, "--help")
    for model in (Inner, Outer):
        for name, field in model.model_fields.items():
            if name != "inner":
                assert f"--{name}" in text and str(field.description) in text
    assert "0<=x<=1" in text and "x>=1" in text and "[default: 0.4]" in text and "x|y" in text and "1|all" in text
    assert "--no-large" in text and "--no-small" not in text and "The command." in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--number", "0"], "--number"),
        (["--fraction", "1.1"], "--fraction"),
        (["--threshold", "1"], "--threshold"),
        (["--kind", "z"], "--kind"),
        (["--captions", "2"], "--captions"),
    ],
)
def test_a_value_out_of_range_is_exit_code_2_and_names_its_option(
    program: typer.Typer, arguments: list[str], named: str
) -> None:
    result = CliRunner().invoke(program, ["--folder", "f", "--out", "o", *arguments])
    assert result.exit_code == 2 and named in result.output


@pytest.mark.parametrize("name", SOURCES)
def test_the_source_of_masks_is_named_with_its_path_or_model(name: str) -> None:
    field = "model" if SOURCES[name].uses_model else "path"
    assert str(parse_source(f"{name}:a:b")[field]) == "a:b"
    for text in (name, f"{name}:", f"{name}x:a"):
        with pytest.raises(OvsegError, match=name):
            parse_source(text)


@pytest.mark.parametrize("name", ["run", "retry", "propose", "score", "near_duplicates"])
def test_every_command_that_may_run_a_model_is_told_where_its_units_run(name: str) -> None:
    (command,) = (info.callback for info in app.registered_commands if info.callback and info.callback.__name__ == name)
    parameters = inspect.signature(command).parameters
    assert parameters["executor"].default is parameters["unit_timeout"].default is None  # of the environment


@pytest.mark.parametrize(
    "model",
    [
        options.IndexOptions,
        options.NounsOptions,
        options.ProposeOptions,
        options.ScoreOptions,
        options.SelectOptions,
        options.ShardsOptions,
        options.CropOptions,
    ],
)
def test_every_parameter_of_mining_is_an_option_of_a_whole_run(model: type[Options]) -> None:
    """Those that one option stands for together are its own business."""
    (run,) = (info.callback for info in app.registered_commands if info.callback and info.callback.__name__ == "run")
    parameters: dict[str, Any] = dict(inspect.signature(run).parameters)
    for option, name in cli_options._options(model).items():
        parameter = parameters[option]
        field = model.model_fields[name]
        assert parameter.annotation.__metadata__[0].help == field.description
        required = parameter.default is inspect.Parameter.empty
        assert required == field.is_required() and (required or str(parameter.default) == str(field.default))
