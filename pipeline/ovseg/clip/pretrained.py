"""Which file holds a CLIP's weights, and what is known of it before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip

from ovseg.clip import metadata
from ovseg.clip.names import RANDOM, SCHEMAS
from ovseg.clip.save import CONFIG, WEIGHTS
from ovseg.core import hashing, weights
from ovseg.core.errors import OvsegError
from ovseg.core.weights import Weights

WANTED = f'--include "*.json" --include {WEIGHTS}'
PICKLED = "open_clip_pytorch_model.bin"
URLS = Path.home() / ".cache" / "clip"  # where open_clip keeps what it downloads by address
WORDS = '--include "*.json" --include "*.model" --include "*.txt"'
TOKENIZERS = ("tokenizer_config.json", "tokenizer.json", "spiece.model", "vocab.txt", "vocab.json")


@dataclass(frozen=True)
class Located:
    """A CLIP that lies on this machine.

    Attributes:
        config: that open_clip builds it from.
        path: of the weights; None for random ones.
        preprocess: of its images, where the config does not say it.
    """

    config: dict[str, Any]
    path: Path | None
    preprocess: dict[str, Any]


def locate(model: str, pretrained: str | None) -> Located:
    """Find a CLIP's weights, downloaded if they have to be and may be.

    Args:
        model, pretrained: as for `load_clip`.

    Raises:
        OvsegError: unknown name or tag, missing file, activation other than the weights'.
    """
    if model.startswith("local-dir:"):
        folder = Path(model[10:])
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise OvsegError(f"{folder} is not a CLIP in open_clip's local-dir layout: {name} is missing")
        config = metadata.read_config(folder / CONFIG)
        _check_text_tower(model, config)
        return Located(config, folder / WEIGHTS, {})
    if model.startswith("hf-hub:"):
        return _on_hub(model[7:])
    return _named(model, pretrained)


def identify(model: str, pretrained: str | None) -> Weights:
    """Exactly which weights these are: with the sha256 of their file, and the revision of what comes from the Hub.

    Raises:
        OvsegError: as `locate`.
    """
    path = locate(model, pretrained).path
    if path is None:
        return Weights(model, pretrained, RANDOM, None, None)
    tag = {} if model.startswith(SCHEMAS) else open_clip.get_pretrained_cfg(model, pretrained)
    found = weights.identify(model, pretrained, path)
    return replace(found, source=tag["url"]) if tag and not tag.get("hf_hub") else found


def weights_fingerprint(model: str, pretrained: str | None) -> str:
    """What identifies a CLIP: the content of its folder, or of its weights and config.

    Raises:
        OvsegError: as `locate`.
    """
    found = locate(model, pretrained)
    if found.path is None:
        return hashing.fingerprint(model=model, pretrained=pretrained)
    if model.startswith("local-dir:"):
        return hashing.sha256_path(Path(model[10:]))
    digest = weights.sha256(found.path)
    if model.startswith("hf-hub:"):
        return hashing.fingerprint(model=model, file=digest, config=found.config)
    if pretrained and Path(pretrained) == found.path:
        return hashing.fingerprint(model=model, file=digest)
    return hashing.fingerprint(model=model, pretrained=pretrained, file=digest)


def _named(model: str, pretrained: str | None) -> Located:
    config = open_clip.get_model_config(model)
    if config is None:
        near = [name for name in open_clip.list_models() if name[:5].lower() == model[:5].lower()]
        raise OvsegError(f"open_clip knows no model {model!r}; near it: {', '.join(near[:12]) or 'none'}")
    if pretrained is None:
        raise OvsegError(f"clip.pretrained is not given for {model!r}: a tag of open_clip, a file, or {RANDOM!r}")
    _check_text_tower(model, config)
    _check_tokenizer(model, config)
    if pretrained == RANDOM:
        return Located(config, None, _preprocess(metadata.default_preprocess(model)))
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    plain = model.removesuffix("-quickgelu")
    if tag:
        wanted = bool(tag.get("quick_gelu"))
        instead = f"{plain}{'-quickgelu' * wanted}:{pretrained}"
        metadata.check_activation(model, config, wanted, f"the weights {pretrained!r}", instead)
        return Located(config, _fetch_tag(model, pretrained, tag, config), _preprocess(tag))
    path = Path(pretrained)
    if not path.is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise OvsegError(f"{pretrained!r} is neither a file nor a tag of {model} (tags: {tags})")
    about = metadata.pretrained_metadata(path)
    if about:
        wanted = bool(about.get("quick_gelu"))
        instead = f"{plain}{'-quickgelu' * wanted}:{pretrained}, or rename the file if it is another"
        metadata.check_activation(model, config, wanted, f"the weights {path}, by name and place,", instead)
    return Located(config, path, _preprocess(about or metadata.default_preprocess(model)))


def _preprocess(about: Mapping[str, Any]) -> dict[str, Any]:
    return {name: about[name] for name in metadata.PREPROCESS if about.get(name) is not None}


def _on_hub(repo: str) -> Located:
    model, tags = f"hf-hub:{repo}", metadata.in_repo(repo)

    def size() -> float | None:
        return metadata.gigabytes(open_clip.get_model_config(tags[0][0])) if tags else None

    config_path = weights.fetch(f"the CLIP {model}", repo, [CONFIG], size, wanted=WANTED)
    config = metadata.read_config(config_path)
    _check_text_tower(model, config)
    _check_tokenizer(model, config)
    if tags:
        wanted = bool(open_clip.get_pretrained_cfg(*tags[0]).get("quick_gelu"))
        metadata.check_activation(model, config, wanted, "its weights", " or ".join(map(":".join, tags)))
    names, commit = [WEIGHTS, PICKLED], weights.revision(config_path)
    path = weights.fetch(f"the weights of {model}", repo, names, lambda: metadata.gigabytes(config), commit)
    return Located(config, path, {})


def _fetch_tag(model: str, pretrained: str, tag: dict[str, Any], config: dict[str, Any]) -> Path:
    what = f"the weights of {model}:{pretrained}"
    if not tag.get("hf_hub"):
        return weights.fetch_url(what, tag["url"], URLS, lambda: metadata.gigabytes(config))
    repo, _, name = tag["hf_hub"].rpartition("/")
    names = _safe_first(name) if name else [WEIGHTS, PICKLED]
    return weights.fetch(what, repo, names, lambda: metadata.gigabytes(config))


def _safe_first(name: str) -> Sequence[str]:
    stem, dot, kind = name.rpartition(".")
    return [f"{stem}{dot}safetensors", name] if kind in ("bin", "pth") else [name]


def _check_text_tower(model: str, config: dict[str, Any]) -> None:
    """A text tower of transformers is built from a config on the Hub, whatever holds its weights."""
    if name := config["text_cfg"].get("hf_model_name"):
        weights.fetch(f"the config of the text tower of {model}", name, ["config.json"])


def _check_tokenizer(model: str, config: dict[str, Any]) -> None:
    """Say what is wrong with a tokenizer before the weights are looked for: open_clip only asks for it at the end."""
    name = config["text_cfg"].get("hf_tokenizer_name")
    if name and not Path(name).is_dir():
        weights.fetch(f"the tokenizer of {model}", name, TOKENIZERS, lambda: 0.0, wanted=WORDS)
    if not name and "siglip" in model.lower() and not model.startswith(SCHEMAS):
        # open_clip would guess a vocabulary by the model's name, and the saved config would not say which
        raise OvsegError(f"the config of {model} names no tokenizer; set text_cfg.hf_tokenizer_name in it")
