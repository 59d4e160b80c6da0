"""A typed, strict view of params.yaml: one section for each step, with the step's name, and some that steps share.

An unknown key, a missing key, a wrong type or a value out of range is an error that names the key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ovseg.core import options
from ovseg.core.errors import OvsegError
from ovseg.core.options import FilePath, Options
from ovseg.core.paths import is_remote
from ovseg.core.text_files import read_text

S = TypeVar("S", bound=BaseModel)


class WatchedPaths(Options):
    """The paths that DVC watches on behalf of the paths in other sections, to see that their content has changed.

    Each is the same path, a folder that contains it, or, for a published data set, the manifest of the part that contains it:
    `data/coco/manifests/train2017.tsv` for `data/coco/train2017`.
    """

    images: FilePath
    """Path that DVC watches for `index.images`."""
    captions: FilePath
    """Path that DVC watches for `index.captions`."""
    annotated: FilePath
    """Path that DVC watches for `proposal_network.annotations` and `propose.annotations`."""
    masks: FilePath
    """Path that DVC watches for `propose.path` and `report.annotations`."""
    heldout: FilePath
    """Path that DVC watches for `heldout.images`; `heldout.annotations` may be in `masks` or in this one."""
    clip: FilePath
    """Path that DVC watches for `clip.model` or `clip.pretrained` if that is a folder or file; else `requirements.lock`, which
    pins open_clip."""
    tagger: FilePath
    """Path that DVC watches for `nouns.model` if that is a folder; else `requirements.lock`."""
    stop_list: FilePath
    """Path that DVC watches for `nouns.stop_list`, the same file; `requirements.lock` if that is null."""
    classes: FilePath
    """Path that DVC watches for `proposal_network.classes` and `propose.classes` if those are files, or `requirements.lock`."""
    network: FilePath
    """Path that DVC watches for `proposal_network.init`, `proposal_network.backbone` and `propose.model` if these are folders;
    else `requirements.lock`."""
    teacher: FilePath
    """Path that DVC watches for `finetune.teacher` if that is a folder; else `requirements.lock`."""
    excluded: FilePath
    """Path that DVC watches for `select.exclude`, the same file; `requirements.lock` if that is null."""
    second: FilePath
    """Path that DVC watches for `select.second_candidates`, the same folder; `requirements.lock` if that is null."""
    near_duplicates: FilePath
    """Path that DVC watches for `select.near_duplicates` and `report.near_duplicates`, the same folder; `requirements.lock` if
    both are null. With `data/near_duplicates/found` DVC looks for them first."""


WATCHED_BY = {
    "index.images": ("images",),
    "index.captions": ("captions",),
    "proposal_network.annotations": ("annotated",),
    "propose.path": ("annotated", "masks"),
    "propose.annotations": ("annotated", "masks"),
    "heldout.images": ("heldout",),
    "heldout.annotations": ("masks", "heldout"),
    "report.annotations": ("masks",),
    "clip.model": ("clip",),
    "clip.pretrained": ("clip",),
    "nouns.model": ("tagger",),
    "nouns.stop_list": ("stop_list",),
    "proposal_network.init": ("network",),
    "proposal_network.backbone": ("network",),
    "proposal_network.classes": ("classes",),
    "propose.model": ("network",),
    "propose.classes": ("classes",),
    "finetune.teacher": ("teacher",),
    "select.exclude": ("excluded",),
    "select.second_candidates": ("second",),
    "select.near_duplicates": ("near_duplicates",),
    "report.near_duplicates": ("near_duplicates",),
}
"""For each path that a stage reads, the keys of section `data` that this stage has as `deps` in dvc.yaml."""


class Params(Options):
    """All sections of params.yaml.

    A data set with a folder data/NAME may have a section NAME of its own: it is kept, but checked only by `read_section`.
    """

    model_config = ConfigDict(extra="allow")

    data: WatchedPaths
    clip: options.ClipOptions
    crop: options.CropOptions
    checks: options.ChecksOptions
    index: options.IndexOptions
    nouns: options.NounsOptions
    proposal_network: options.ProposalNetworkOptions
    propose: options.ProposeOptions
    score: options.ScoreOptions
    near_duplicates: options.NearDuplicatesOptions
    select: options.SelectOptions
    shards: options.ShardsOptions
    finetune: options.FinetuneOptions
    prompt: options.PromptOptions
    heldout: options.HeldoutOptions
    segment: options.SegmentOptions
    calibrate: options.CalibrateOptions
    evaluate: options.EvaluateOptions
    report: options.ReportOptions

    @model_validator(mode="after")
    def _check_order_of_trainings(self) -> Self:
        if self.finetune.init == "prompt" and self.prompt.init == "finetune":
            raise ValueError("finetune.init=prompt and prompt.init=finetune need each other; set one of them to base")
        return self

    @model_validator(mode="after")
    def _check_result(self) -> Self:
        """The last evaluated model is the result, so it must not be one that another training goes on from."""
        if self.finetune.init == "prompt" and self.finetune.epochs and self.evaluate.models[-1] == "prompt":
            raise ValueError(
                f"evaluate.models=[{','.join(self.evaluate.models)}] ends with prompt, but with finetune.init=prompt "
                "finetune is trained after it, and the last model is the result; set evaluate.models=[base,prompt,finetune]"
            )
        return self

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        """Trainings on crops read shards, and would not see that other pairs are asked for."""
        method, pairs = self.finetune.method, self.finetune.pairs
        if method in ("crops", "text_prompts") and pairs != "mined":
            raise ValueError(
                f"finetune.pairs={pairs} is for the region encoders, and finetune.method={method} trains on the shards; set "
                "finetune.pairs=mined and, for annotated masks in the shards, select.annotated_fraction=1.0, or take "
                "another method"
            )
        return self

    @model_validator(mode="after")
    def _check_psm(self) -> Self:
        if problem := self.finetune.psm_problem:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _check_background(self) -> Self:
        """A training fills the background of a crop from its mask, and cannot bring back one that the shards lack."""
        trained: dict[str, options.TrainingOptions] = {"prompt": self.prompt}
        if self.finetune.method in ("crops", "text_prompts"):
            trained["finetune"] = self.finetune
        names = [name for name, training in trained.items() if training.epochs and training.shards == Path("shards")]
        if names and self.crop.fill == "keep" and self.shards.background != "keep":
            raise ValueError(
                f"crop.fill=keep and shards.background={self.shards.background} disagree: {' and '.join(names)} would train on "
                "crops without their background, and everything else shows CLIP crops with it; set shards.background=keep"
            )
        return self

    @model_validator(mode="after")
    def _check_shown_benchmark(self) -> Self:
        if self.report.benchmark not in self.evaluate.benchmarks:
            raise ValueError(
                f"report.benchmark={self.report.benchmark} is not evaluated; set it to one of evaluate.benchmarks="
                f"{','.join(self.evaluate.benchmarks)}, or add it there"
            )
        return self

    @model_validator(mode="after")
    def _check_watched_paths(self) -> Self:
        """What DVC watches and what the stages read must be the same files: an edit would otherwise re-run nothing."""
        problems = []
        for key, names in WATCHED_BY.items():
            section, name = key.split(".")
            path = _path(getattr(getattr(self, section), name))
            watched: dict[str, Path] = {f"data.{name}": getattr(self.data, name) for name in names}
            if path is not None and not any(_covers(other, path) for other in watched.values()):
                listed = " or ".join(f"{key}={other}" for key, other in watched.items())
                problems.append(
                    f"{key}={path} and {listed} disagree: DVC would not see a change of {path}; "
                    f"set {' or '.join(watched)} to that path, or to the manifest of the part that holds it"
                )
        if problems:
            raise ValueError("; ".join(problems))
        return self


def read_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml. Every key must be present, so that the file describes a run completely.

    Raises:
        OvsegError: The file is missing or broken; or the keys that are wrong, each with its value and what is allowed.
    """
    values = _read_yaml(path)
    for name in sorted(map(str, values.keys() - Params.model_fields.keys())):
        if not any((folder / "data" / name).is_dir() for folder in (path.parent, Path())):
            known = ", ".join(Params.model_fields)
            raise OvsegError(f"{path}: unknown section {name!r}; known: {known}, and the folders of data/")
    params = _validate(Params, values, path)
    missing = [f"{name}.{key}" for name in Params.model_fields for key in _missing(getattr(params, name))]
    if missing:
        raise OvsegError(f"{path}: missing: {', '.join(missing)}")
    return params


def read_section(path: Path, name: str, model: type[S]) -> S:
    """Read and check the section of a data set in params.yaml; every key must be present.

    Args:
        path: params.yaml.
        name: Name of the section, and of the data set's folder in data/.
        model: Its fields.

    Raises:
        OvsegError: The file is missing or broken; or the keys that are wrong.
    """
    values = _read_yaml(path)
    if name not in values:
        raise OvsegError(f"{path}: section {name} is missing; its keys are {', '.join(model.model_fields)}")
    section = _validate(model, values[name], path, name)
    if missing := list(_missing(section)):
        raise OvsegError(f"{path}: missing: {', '.join(f'{name}.{key}' for key in missing)}")
    return section


class _Loader(yaml.SafeLoader):
    """Reads numbers such as 5e-06, which DVC writes, as YAML 1.2 does. PyYAML, which reads YAML 1.1, takes them for texts."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+"), list("-+.0123456789")
)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(read_text(path), _Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise OvsegError(f"{path.absolute()} does not exist; copy one of recipes/*.yaml there") from None
    except yaml.YAMLError as error:
        raise OvsegError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise OvsegError(f"{path} has no sections; copy one of recipes/*.yaml there")
    return values


def _validate(model: type[S], values: Any, path: Path, *section: str) -> S:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        messages = (_describe(model, problem, section) for problem in error.errors())
        raise OvsegError(f"{path}: " + "; ".join(dict.fromkeys(messages))) from None


def _missing(section: BaseModel) -> Iterator[str]:
    return (key for key in type(section).model_fields if key not in section.model_fields_set)


def _path(value: str | Path | None) -> Path | None:
    """The path in a parameter; None for null and for a name that a library resolves: one that is no file or folder here."""
    if not isinstance(value, str):
        return value
    path = Path(value.removeprefix("local-dir:"))
    return path if value.startswith("local-dir:") or path.exists() else None


def _covers(watched: Path, path: Path) -> bool:
    """Whether a change of `path` changes `watched`: the path, a folder that holds it, or the manifest of its part.

    The parts of a data set are folders, or files whose names begin with that of the part.
    """
    if is_remote(path) != is_remote(watched):
        return False
    if path.is_relative_to(watched):
        return True
    dataset, part = watched.parent.parent, watched.stem
    if watched.parent.name != "manifests" or watched.suffix != ".tsv" or not path.is_relative_to(dataset):
        return False
    return any(name == part or name.startswith(f"{part}_") for name in path.relative_to(dataset).parts)


def _describe(model: type[BaseModel], problem: Mapping[str, Any], section: tuple[str, ...]) -> str:
    """One of pydantic's errors as a sentence that names the key, its value and what is allowed."""
    names = _names(model, problem["loc"])
    key = ".".join((*section, *names))
    if problem["type"] == "extra_forbidden":
        parent = model if len(names) == 1 else model.model_fields[names[0]].annotation
        assert isinstance(parent, type)
        assert issubclass(parent, BaseModel)
        return f"unknown key {key!r}; known: {', '.join(parent.model_fields)}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    if not key:
        return str(problem["msg"]).removeprefix("Value error, ")
    message = str(problem["msg"])
    return f"{key}={problem['input']!r} is not allowed: {message[0].lower()}{message[1:]}"


def _names(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The part of an error's location that names keys: a position in a list or a member of a union may follow."""
    depth = 2 if model is Params else 1
    return [str(name) for name in location[:depth]]
