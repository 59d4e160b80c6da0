"""Command line options that are made from the fields of an options model: type, range, default and help.

A command is a function that takes options models. `with_options` gives it one command line option for each field of them:

    @app.command()
    @with_options
    def select(candidates: Folder, proposals: Folder, out: Out, options: SelectOptions, runtime: Runs) -> None:
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ovseg.clip.names import parse as parse_clip
from ovseg.core.errors import OvsegError
from ovseg.core.options import ClipOptions, NounsOptions, Options, ProposeOptions, SegmentOptions
from ovseg.core.paths import to_path

M = TypeVar("M", bound=Options)

path_option = partial(typer.Option, parser=to_path, metavar="PATH")
"""An option that takes a path of this machine, or a URL."""

CONTEXT = "context"  # the parameter by which typer says which options were given


@dataclass(frozen=True)
class Spelling:
    """One option of the command line that stands for several fields of a model.

    Attributes:
        name: name of the option.
        help: help of the option.
        parse: function from the text that the user gives to the values of the fields.
        fields: the fields that it stands for.
    """

    name: str
    help: str
    parse: Callable[[str], dict[str, Any]]
    fields: frozenset[str]


def parse_source(text: str) -> dict[str, Any]:
    """Split SOURCE:PATH or SOURCE:MODEL into the fields of `ProposeOptions`.

    Raises:
        OvsegError: the source is unknown, or its path or model is missing.
    """
    from ovseg.proposals.sources import SOURCES

    name, _, value = text.partition(":")
    if name not in SOURCES:
        raise OvsegError(f"--proposals {text!r}: {name!r} is not a source of masks; there are {', '.join(SOURCES)}")
    if not value:
        kind = "model: a folder, or a name on the Hub" if SOURCES[name].uses_model else "path to its masks"
        raise OvsegError(f"--proposals {text!r}: after {name}: there must be a {kind}")
    return {"source": name, "model": value} if SOURCES[name].uses_model else {"source": name, "path": to_path(value)}


SPELLINGS: dict[type[Options], Spelling] = {
    ClipOptions: Spelling(
        "clip",
        'CLIP: NAME:WEIGHTS (a tag of open_clip, a file, a folder, or "random"), local-dir:FOLDER or hf-hub:OWNER/NAME.',
        lambda text: dict(zip(("model", "pretrained"), parse_clip(text), strict=True)),
        frozenset({"model", "pretrained", "licence"}),
    ),
    ProposeOptions: Spelling(
        "proposals",
        "Source of the masks, and after a colon its file or model, such as ground_truth:PATH, precomputed:PATH, "
        "proposal_network:FOLDER, maskformer:MODEL or sam2:MODEL.",
        parse_source,
        frozenset({"source", "path", "model", "licence"}),
    ),
}
NAMES: dict[type[Options], dict[str, str]] = {
    NounsOptions: {"model": "nouns_model", "model_version": "nouns_model_version"},
    ProposeOptions: {"classes": "annotation_classes"},
}
"""Fields whose option has another name, because the name alone does not say of what it is."""

HIDDEN: dict[type[Options], frozenset[str]] = {
    SegmentOptions: frozenset({"weight_seen", "average_seen", "seen_penalty"}),
}
"""Fields without an option: names that are given on the command line are not known to be seen in training."""


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter of a command that is an options model by one parameter for each field of the model.

    The `model_fields_set` of a model that the command gets are the fields whose option was given.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    models = {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, Options)}
    parameters = [inspect.Parameter(CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in models:
            parameters += list(_parameters(models[parameter.name]))
        else:
            keyword = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(annotation=hints[parameter.name], kind=keyword))

    def wrapper(**values: Any) -> None:
        context: typer.Context = values.pop(CONTEXT)
        given = {name for name in values if getattr(context.get_parameter_source(name), "name", None) != "DEFAULT"}
        built = {name: _build(model, values, given) for name, model in models.items()}
        command(**values, **built)

    wrapper.__name__, wrapper.__doc__, wrapper.__module__ = command.__name__, command.__doc__, command.__module__
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def _parameters(model: type[Options]) -> Iterator[inspect.Parameter]:
    """The parameters of a command that stand for the fields of a model, and of the models in it."""
    if model in SPELLINGS:
        spelling = SPELLINGS[model]
        yield _parameter(spelling.name, Annotated[str, typer.Option(help=spelling.help)])
    for option, name in _options(model).items():
        field = model.model_fields[name]
        if nested := _model(field):
            yield from _parameters(nested)
            continue
        default = inspect.Parameter.empty if field.is_required() else field.default
        yield _parameter(option, _annotation(option, field), _text(default) if _choices(field) else default)


def _build(model: type[M], values: dict[str, Any], given: Container[str]) -> M:
    """Make a model of the values of its options, which are taken out of `values`; fields that are not `given` are left unset.

    Raises:
        typer.BadParameter: a value that is out of the range of its field.
        OvsegError: see `Spelling.parse`.
    """
    fields = SPELLINGS[model].parse(values.pop(SPELLINGS[model].name)) if model in SPELLINGS else {}
    options = _options(model)
    for option, name in options.items():
        field = model.model_fields[name]
        if nested := _model(field):
            fields[name] = _build(nested, values, given)
            continue
        value = values.pop(option)
        if option in given:
            fields[name] = _choices(field).get(value, value)
    try:
        return model(**fields)
    except ValidationError as error:
        problem = error.errors()[0]
        flags = {name: f"--{option.replace('_', '-')}" for option, name in options.items()}
        raise typer.BadParameter(problem["msg"], param_hint=flags.get(str(problem["loc"][0]))) from None


def _options(model: type[Options]) -> dict[str, str]:
    """The field that each option of the command line sets."""
    without = HIDDEN.get(model, frozenset()) | (SPELLINGS[model].fields if model in SPELLINGS else frozenset())
    return {NAMES.get(model, {}).get(name, name): name for name in model.model_fields if name not in without}


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _annotation(option: str, field: FieldInfo) -> Any:
    """The type of an option with its help and range, as typer takes it. Other limits are checked by the model."""
    kind, metadata = _type(field)
    limits: dict[str, Any] = {}
    for limit in metadata:
        limits |= {"min": limit.ge} if hasattr(limit, "ge") else {}
        limits |= {"max": limit.le} if hasattr(limit, "le") else {}
    if choices := _choices(field):
        kind = Literal[tuple(choices)]
    optional = not field.is_required() and field.default is None
    # typer would give a switch that is off by default a second flag, to set it off
    flags = [f"--{option.replace('_', '-')}"] if kind is bool and not field.default else []
    limits |= {"parser": to_path, "metavar": "PATH"} if kind is Path else {}
    return Annotated[kind | None if optional else kind, typer.Option(*flags, help=field.description, **limits)]


def _model(field: FieldInfo) -> type[Options] | None:
    """The options model that a field holds; None for any other field."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Options) else None


def _choices(field: FieldInfo) -> dict[str, Any]:
    """The values of a field that has a list of them, by their text; empty for any other field."""
    kind, _ = _type(field)
    return {_text(value): value for value in typing.get_args(kind)} if typing.get_origin(kind) is Literal else {}


def _type(field: FieldInfo) -> tuple[Any, list[Any]]:
    """The type of a field's values other than None, and its limits."""
    kind, metadata = field.annotation, list(field.metadata)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(member for member in typing.get_args(kind) if member is not types.NoneType)
    if typing.get_origin(kind) is Annotated:
        kind, *annotations = typing.get_args(kind)
        metadata += [limit for info in annotations for limit in getattr(info, "metadata", [info])]
    return kind, metadata


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) else value
