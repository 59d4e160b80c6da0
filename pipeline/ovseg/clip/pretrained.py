"""Find the files of a CLIP by its name, and identify its weights, before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip

from ovseg.clip import metadata
from ovseg.clip.folders import (
    BESIDE,
    PICKLED_WEIGHTS,
    PROVENANCE,
    TRANSFORMERS_CONFIG,
    explain_missing_config,
    find_weights,
)
from ovseg.clip.mask_adapter import ADAPTER
from ovseg.clip.names import CONFIG, RANDOM, SCHEMAS
from ovseg.clip.pseudo_text import PSEUDO_TEXT
from ovseg.clip.save import PROMPTS, WEIGHTS
from ovseg.clip.text_prompts import TEXT_PROMPTS
from ovseg.core import hashing, weights
from ovseg.core.checkpoints import SHARD_INDEX_SUFFIX, files_of, shard_names
from ovseg.core.errors import OvsegError
from ovseg.core.files import expand_home
from ovseg.core.weights import Weights
from ovseg.engine.weight_files import fetch_from_hub, fetch_from_url, fetch_optional

TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "spiece.model", "vocab.txt", "vocab.json")
OPEN_CLIP_CACHE = "~/.cache/clip"  # where open_clip keeps files that are published at an address
CLIP_DOWNLOAD = " ".join(
    f"--include {name}" for name in ('"*.json"', WEIGHTS, PROMPTS, TEXT_PROMPTS, ADAPTER, PSEUDO_TEXT)
)
"""Arguments of `hf download` in error messages."""
TOKENIZER_DOWNLOAD = '--include "*.json" --include "*.model" --include "*.txt"'


@dataclass(frozen=True)
class LocatedClip:
    """A CLIP whose files are on this machine.

    Attributes:
        config: config that open_clip builds the model from ("model_cfg" of open_clip_config.json).
        path: file of the weights, or the index of its shards; None for random weights.
        preprocess: preprocessing of its images, where the config does not state it; see `metadata.PREPROCESS`.
        folder: folder of all its files, `folders.BESIDE` too; None for a name of open_clip.
    """

    config: dict[str, Any]
    path: Path | None
    preprocess: dict[str, Any]
    folder: Path | None = None


def locate(model: str, pretrained: str | None) -> LocatedClip:
    """Find the files of a CLIP, and download them if needed and allowed.

    Args:
        model: a name of open_clip, "local-dir:FOLDER" or "hf-hub:OWNER/NAME".
        pretrained: for a name of open_clip, a tag of it, a weights file, or "random".

    Raises:
        OvsegError: if the name or tag is unknown, a file is missing, or the model has another activation than its weights.
    """
    if model.startswith("local-dir:"):
        folder = Path(model.removeprefix("local-dir:"))
        if not (folder / CONFIG).is_file():
            raise OvsegError(explain_missing_config(folder))
        config = metadata.read_config(folder / CONFIG)
        path = find_weights(folder)
        _require_text_tower_config(model, config)
        return LocatedClip(config, path, {}, folder)
    if model.startswith("hf-hub:"):
        return _locate_on_hub(model.removeprefix("hf-hub:"))
    return _locate_by_name(model, pretrained)


def identify(model: str, pretrained: str | None) -> Weights:
    """Identify the weights of a CLIP by the sha256 of their file and, if they come from the Hub, by their revision.

    Args:
        model: name of the CLIP, as for `locate`.
        pretrained: name of its weights, as for `locate`.

    Raises:
        OvsegError: as `locate`.
    """
    path = locate(model, pretrained).path
    if path is None:
        return Weights(model, pretrained, RANDOM, None, None)
    tag = {} if model.startswith(SCHEMAS) else open_clip.get_pretrained_cfg(model, pretrained)
    identity = weights.identify(model, pretrained, files_of(path))
    return replace(identity, source=tag["url"]) if tag and not tag.get("hf_hub") else identity


def weights_fingerprint(model: str, pretrained: str | None) -> str:
    """A hash that identifies a CLIP: that of its folder's content, or of its weights and of what else it computes with.

    Args:
        model: name of the CLIP, as for `locate`.
        pretrained: name of its weights, as for `locate`.

    Raises:
        OvsegError: as `locate`.
    """
    located = locate(model, pretrained)
    if located.path is None:
        return hashing.fingerprint(model=model, pretrained=pretrained)
    if model.startswith("local-dir:"):
        return hashing.sha256_path(Path(model.removeprefix("local-dir:")))
    digest = weights.sha256(*files_of(located.path))
    if located.folder is not None:
        files = [located.folder / name for name in BESIDE if (located.folder / name).is_file()]
        beside = {"beside": {path.name: weights.sha256(path) for path in files}} if files else {}
        return hashing.fingerprint(model=model, file=digest, config=located.config, **beside)
    if pretrained and Path(pretrained) in (located.path, located.path.parent):
        return hashing.fingerprint(model=model, file=digest, preprocess=located.preprocess)
    return hashing.fingerprint(model=model, pretrained=pretrained, file=digest)


def _locate_by_name(model: str, pretrained: str | None) -> LocatedClip:
    config = open_clip.get_model_config(model)
    if config is None:
        similar = [name for name in open_clip.list_models() if name[:5].lower() == model[:5].lower()]
        raise OvsegError(f"open_clip knows no model {model!r}; similar names: {', '.join(similar[:12]) or 'none'}")
    if pretrained is None:
        raise OvsegError(f"clip.pretrained is not given for {model!r}: set a tag of open_clip, a file, or {RANDOM!r}")
    _require_text_tower_config(model, config)
    _require_tokenizer(model, config)
    if pretrained == RANDOM:
        return LocatedClip(config, None, _preprocess(metadata.default_preprocess(model)))
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    base_name = model.removesuffix("-quickgelu")
    if tag:
        quick_gelu = bool(tag.get("quick_gelu"))
        suggestion = f"{base_name}{'-quickgelu' * quick_gelu}:{pretrained}"
        metadata.check_activation(model, config, quick_gelu, f"the weights {pretrained!r}", suggestion)
        return LocatedClip(config, _fetch_tag(model, pretrained, tag, config), _preprocess(tag))
    path = Path(pretrained)
    if path.is_dir():
        if (path / CONFIG).is_file():
            raise OvsegError(f"{path} holds its own config; set clip.model=local-dir:{path} and clip.pretrained=null")
        path = find_weights(path)
    elif not path.is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise OvsegError(f"{pretrained!r} is neither a file nor a tag of {model} (tags: {tags})")
    known = metadata.pretrained_metadata(path)
    if known:
        quick_gelu = bool(known.get("quick_gelu"))
        suggestion = (
            f"{base_name}{'-quickgelu' * quick_gelu}:{pretrained}, or rename the file if it holds other weights"
        )
        metadata.check_activation(
            model, config, quick_gelu, f"the weights {path}, by their name and place,", suggestion
        )
    return LocatedClip(config, path, _preprocess(known or metadata.default_preprocess(model)))


def _preprocess(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in metadata.PREPROCESS if values.get(name) is not None}


def _locate_on_hub(repo: str) -> LocatedClip:
    model, tags = f"hf-hub:{repo}", metadata.tags_of_repository(repo)

    def gigabytes() -> float | None:
        return metadata.gigabytes(open_clip.get_model_config(tags[0][0])) if tags else None

    try:
        config_path = fetch_from_hub(
            f"the CLIP {model}", repo, [CONFIG], gigabytes, hf_download_arguments=CLIP_DOWNLOAD
        )
    except OvsegError as error:
        raise _explain_repository(repo) or error from None
    config = metadata.read_config(config_path)
    _require_text_tower_config(model, config)
    _require_tokenizer(model, config)
    if tags:
        quick_gelu = bool(open_clip.get_pretrained_cfg(*tags[0]).get("quick_gelu"))
        metadata.check_activation(model, config, quick_gelu, "its weights", " or ".join(map(":".join, tags)))
    what, commit = f"the weights of {model}", weights.revision(config_path)
    names = [WEIGHTS, PICKLED_WEIGHTS, f"{WEIGHTS}{SHARD_INDEX_SUFFIX}"]
    path = fetch_from_hub(what, repo, names, lambda: metadata.gigabytes(config), commit)
    for name in shard_names(path) if path.name.endswith(SHARD_INDEX_SUFFIX) else []:
        fetch_from_hub(what, repo, [name], commit=commit)
    for name in (*BESIDE, PROVENANCE):
        fetch_optional(f"{name} of {model}", repo, name, commit)
    return LocatedClip(config, path, {}, path.parent)


def _explain_repository(repo: str) -> OvsegError | None:
    """What a repository without open_clip's config is; None if that cannot be told."""
    try:
        config_path = fetch_from_hub(f"the config of {repo}", repo, [TRANSFORMERS_CONFIG])
    except OvsegError:
        return None
    return OvsegError(explain_missing_config(config_path.parent, repo))


def _fetch_tag(model: str, pretrained: str, tag: dict[str, Any], config: dict[str, Any]) -> Path:
    what = f"the weights of {model}:{pretrained}"
    if not tag.get("hf_hub"):
        return fetch_from_url(what, tag["url"], Path(expand_home(OPEN_CLIP_CACHE)), lambda: metadata.gigabytes(config))
    repo, _, name = tag["hf_hub"].rpartition("/")
    names = _safetensors_first(name) if name else [WEIGHTS, PICKLED_WEIGHTS]
    return fetch_from_hub(what, repo, names, lambda: metadata.gigabytes(config))


def _safetensors_first(name: str) -> Sequence[str]:
    stem, dot, suffix = name.rpartition(".")
    return [f"{stem}{dot}safetensors", name] if suffix in ("bin", "pth") else [name]


def _require_text_tower_config(model: str, config: dict[str, Any]) -> None:
    """Fetch the config of a text tower of transformers: it is on the Hub, wherever the weights are."""
    if name := config["text_cfg"].get("hf_model_name"):
        fetch_from_hub(f"the config of the text tower of {model}", name, ["config.json"])


def _require_tokenizer(model: str, config: dict[str, Any]) -> None:
    """Fetch the tokenizer before the weights, because open_clip asks for it only after it has loaded them."""
    name = config["text_cfg"].get("hf_tokenizer_name")
    if name and not Path(name).is_dir():
        what = f"the tokenizer of {model}"
        fetch_from_hub(what, name, TOKENIZER_FILES, lambda: 0.0, hf_download_arguments=TOKENIZER_DOWNLOAD)
    if not name and "siglip" in model.lower() and not model.startswith(SCHEMAS):
        # open_clip would guess a vocabulary from the model's name, and the saved config would not record which.
        raise OvsegError(f"the config of {model} names no tokenizer; set text_cfg.hf_tokenizer_name in it")
