"""Makes docs/reference.md from the code: commands, parameters, and the Python functions and classes.

    python -m docs.reference           writes docs/reference.md
    python -m docs.reference --check   exits with 1 if the file is not what would be written

Commands come from the Typer applications, parameters from the options models, and Python from the source text, so that
nothing heavy is imported.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import typer.main
from pydantic import BaseModel

from ovseg.cli.app import app
from ovseg.cli.mine import app as mine_app
from ovseg.core.params import Params

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pipeline" / "ovseg"
TARGET = ROOT / "docs" / "reference.md"
PACKAGES = (
    "core",
    "engine",
    "clip",
    "proposals",
    "datasets",
    "mining",
    "training",
    "segmentation",
    "evaluation",
    "report",
)
HEAD = """# Reference

Made from the code by `python -m docs.reference`; a test holds that it is up to date.

- [Commands](#commands): `ovseg-mine`, `ovseg`
- [Parameters](#parameters): the sections of `params.yaml`
- [Python](#python): modules, functions and classes
"""
PARAMETERS = """## Parameters

A section of `params.yaml` for each step, and some that steps share. All keys have to be there, so that the file says all
of a run; the defaults are those of the Python functions and of the command line. `dvc exp run -S section.key=value` runs
a variant.
"""
PYTHON = """## Python

Every public function and class, by package; imports go down this list only. Shapes, units and errors are in the docstrings.
"""


def main(arguments: Sequence[str]) -> None:
    """Write the reference, or check it."""
    text = reference()
    if "--check" not in arguments:
        TARGET.write_text(text, encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != text:
        sys.exit(f"{TARGET.relative_to(ROOT)} is not up to date; run: python -m docs.reference")


def reference() -> str:
    """The whole text of docs/reference.md."""
    parts = [HEAD, "## Commands\n", *_commands(mine_app, "ovseg-mine"), *_commands(app, "ovseg")]
    parts += [PARAMETERS, *(_section(name, _model(field.annotation)) for name, field in Params.model_fields.items())]
    parts += [PYTHON, *(_package(name) for name in PACKAGES)]
    return "\n".join(parts).rstrip() + "\n"


def _commands(application: typer.Typer, name: str) -> Iterator[str]:
    """A table of options for each command of an application, those of groups included."""
    for info in application.registered_commands:
        assert info.callback is not None
        command = info.name or info.callback.__name__.replace("_", "-")
        yield _command(info.callback, f"{name} {command}")
    for group in application.registered_groups:
        assert group.typer_instance is not None
        yield from _commands(group.typer_instance, f"{name} {group.name}")


def _command(callback: Any, name: str) -> str:
    lines = [f"### `{name}`", "", inspect.cleandoc(callback.__doc__ or "").replace("\n\n", "\n").replace("\n", " "), ""]
    hints = typing.get_type_hints(callback, include_extras=True)
    rows = []
    for found in _parsed(callback):
        names = ", ".join(f"`{option}`" for option in (*found.opts, *found.secondary_opts))
        is_option = str(found.opts[0]).startswith("-")
        shown = names if is_option else f"`{found.name.upper()}`"
        rows.append(
            (shown, _type(hints[found.name]), _default(found.default, required=found.required), found.help or "")
        )
    return "\n".join([*lines, _table(("option", "values", "default", "meaning"), rows), ""])


def _parsed(callback: Any) -> list[Any]:
    """What Typer makes of the parameters of a command: their names on the command line, and their help."""
    application = typer.Typer(add_completion=False)
    application.command()(callback)
    return list(typer.main.get_command(application).params)


def _type(annotation: Any) -> str:
    """The values of a command line parameter, by its annotation."""
    limits = ""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, info = typing.get_args(annotation)[:2]
        limits = _interval(getattr(info, "min", None), getattr(info, "max", None))
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    if typing.get_origin(annotation) is list:
        return f"{_type(typing.get_args(annotation)[0])}, several"
    if typing.get_origin(annotation) is typing.Literal:
        return _choices(typing.get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _choices([member.value for member in annotation])
    named = {bool: "", int: "integer", float: "number", str: "text", Path: "path"}
    return f"{named[annotation]} {limits}".strip()


def _section(name: str, model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    required = schema.get("required", [])
    rows = [
        (
            f"`{key}`",
            _values(field),
            "required" if key in required else f"`{json.dumps(field['default'])}`".replace('"', ""),
            field["description"],
        )
        for key, field in schema["properties"].items()
    ]
    about = inspect.cleandoc(model.__doc__ or "").replace("\n", " ").replace("  ", " ")
    return f"### `{name}`\n\n{about}\n\n{_table(('key', 'values', 'default', 'meaning'), rows)}\n"


def _model(annotation: Any) -> type[BaseModel]:
    assert isinstance(annotation, type)
    assert issubclass(annotation, BaseModel)
    return annotation


def _values(schema: dict[str, Any]) -> str:
    """The values of a parameter, by its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_values(part) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return _choices(schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        return f"list: {_values(schema['items'])}"
    named = {"boolean": "`true` or `false`", "integer": "integer", "number": "number", "null": "null"}
    kind = named.get(schema["type"], "path" if schema.get("format") == "path" else "text")
    limits = _interval(schema.get("minimum"), schema.get("maximum"))
    if "exclusiveMinimum" in schema or "exclusiveMaximum" in schema:
        limits = _open_interval(schema)
    multiple = f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
    return f"{kind} {limits}".strip() + multiple


def _interval(least: float | None, most: float | None) -> str:
    if least is None:
        return "" if most is None else f"≤ {most:g}"
    return f"≥ {least:g}" if most is None else f"in [{least:g}, {most:g}]"


def _open_interval(schema: dict[str, Any]) -> str:
    least, most = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if most is None and "maximum" not in schema:
        return f"> {least:g}"
    left = f"({least:g}" if least is not None else f"[{schema['minimum']:g}"
    right = f"{most:g})" if most is not None else f"{schema['maximum']:g}]"
    return f"in {left}, {right}"


def _choices(values: Sequence[Any]) -> str:
    named = [f"`{value}`" for value in values]
    return " or ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)


def _default(value: Any, *, required: bool) -> str:
    if required:
        return "required"
    if isinstance(value, Enum):
        value = value.value
    if value is None or value is False or value == "":
        return "" if value is None else "off"
    return "on" if value is True else f"`{value}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        head,
        ["---"] * len(head),
        *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else "No options.\n"


def _package(name: str) -> str:
    modules = [_module(path) for path in sorted((PACKAGE / name).rglob("*.py"))]
    about = _sentence(ast.parse((PACKAGE / name / "__init__.py").read_text(encoding="utf-8")))
    return "\n".join([f"### `ovseg.{name}`\n", f"{about}\n", *filter(None, modules)])


def _module(path: Path) -> str:
    """A list of the public names of a module; empty if there are none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lines = [line for node in tree.body for line in _entry(node)]
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    dotted = ".".join(("ovseg", *(part for part in parts if part != "__init__")))
    return "\n".join([f"#### `{dotted}`\n", f"{_sentence(tree)}\n", *lines, ""]) if lines else ""


def _entry(node: ast.stmt, owner: str = "") -> Iterator[str]:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        is_property = any(ast.unparse(name).endswith("property") for name in node.decorator_list)
        arguments = "" if is_property else f"({_arguments(node)})"
        yield f"- `{owner}{node.name}{arguments}{returns}`: {_sentence(node)}"
    if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        yield f"- class `{node.name}`: {_sentence(node)}"
        for member in node.body:
            yield from (f"  {line}" for line in _entry(member, f"{node.name}."))


def _arguments(node: ast.FunctionDef) -> str:
    text = ast.unparse(node.args)
    return text.removeprefix("self, ").removeprefix("self")


def _sentence(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    """The first sentence of a docstring."""
    words = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    end = words.find(". ")
    return words if end < 0 else words[: end + 1]


if __name__ == "__main__":
    main(sys.argv[1:])
