"""The spaCy pipeline that tags captions: what is loaded of it, and what to do if it cannot be used."""

from __future__ import annotations

import json
import logging
import re
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg.core import hashing
from ovseg.core.errors import OvsegError

if TYPE_CHECKING:
    from spacy.language import Language

log = logging.getLogger("ovseg")

COMPONENTS = frozenset(
    {
        "tok2vec",
        "transformer",
        "curated_transformer",
        "tagger",
        "morphologizer",
        "attribute_ruler",
        "lemmatizer",
        "trainable_lemmatizer",
    }
)
"""The components of spaCy that tags and lemmas need."""
PLUG_INS = {"transformer": "spacy-transformers", "curated_transformer": "spacy-curated-transformers"}
"""The packages of components that spaCy does not have itself."""
PROBE = "A dog on the grass."


def load_tagger(model: str) -> Language:
    """Load a spaCy pipeline with only the components that tags and lemmas need.

    Args:
        model: the name of an installed pipeline ("en_core_web_sm"), or a folder.

    Raises:
        OvsegError: it is not installed, is broken, is of another version of spaCy, needs a plug-in that is not installed, or
            gives no tags or no lemmas; the message has the remedy.
    """
    import spacy

    try:
        folder = Path(model)
        if not _package_folder(model) and (folder / "config.cfg").is_file() and not (folder / "vocab").is_dir():
            raise FileNotFoundError("the folder vocab is missing")  # without which spaCy loads it, and tags worse
        # Components that are not needed are not even made: their plug-ins need not be installed.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"\[W09[45]\]")  # of another version: `check_version` says it
            nlp = spacy.load(model, exclude=_other_components(model))
        factories = {name: nlp.get_pipe_meta(name).factory for name in nlp.pipe_names}
        nlp.select_pipes(enable=[name for name, factory in factories.items() if factory in COMPONENTS])
        assigned = {attribute for name in nlp.pipe_names for attribute in nlp.get_pipe_meta(name).assigns}
        tags = any(token.pos_ for token in nlp(PROBE))
    except Exception as error:  # whatever the code and data of a pipeline raise: spaCy itself has a dozen kinds
        raise OvsegError(_explain(model, error)) from None
    if "token.lemma" not in assigned or not tags:
        raise OvsegError(
            f"the spaCy pipeline {model!r} gives no {'parts of speech' if 'token.lemma' in assigned else 'lemmas'}; use "
            "one with a tagger and a lemmatizer, such as en_core_web_sm"
        )
    return nlp


def check_version(model: str, version: str | None) -> None:
    """Check that a spaCy pipeline has the expected version, and warn if it was made for another version of spaCy.

    Args:
        model: see `load_tagger`.
        version: the version it must have; None for any.

    Raises:
        OvsegError: the pipeline cannot be used, or its version is another.
    """
    installed = (_read_meta(model) or load_tagger(model).meta)["version"]
    if version is not None and installed != version:
        raise OvsegError(
            f"the spaCy pipeline {model!r} has version {installed}, but nouns.model_version is {version}; install that "
            f"version, or set nouns.model_version={installed}"
        )
    if mismatch := _version_mismatch(model):
        load_tagger(model)  # where it cannot be loaded, that is all there is to say
        log.warning(
            "the spaCy pipeline %r %s; it can be loaded, but may give other tags: %s",
            model,
            mismatch,
            _remedy_of_version(model),
        )


def model_fingerprint(model: str) -> str:
    """Return what identifies a spaCy pipeline: a hash of its files, or of the metadata of an installed package."""
    if _package_folder(model) is None and Path(model).is_dir():
        return hashing.sha256_path(Path(model))
    return hashing.fingerprint(name=model, meta=_read_meta(model) or load_tagger(model).meta)


def _package_folder(model: str) -> Path | None:
    """The folder of an installed pipeline, which has its meta.json."""
    from spacy import util

    return Path(util.get_package_path(model)) if util.is_package(model) else None


def _read_meta(model: str) -> dict[str, Any]:
    """The content of meta.json; empty if it cannot be read."""
    try:
        meta = json.loads(((_package_folder(model) or Path(model)) / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _other_components(model: str) -> list[str]:
    """The names of the components that are not needed; none if the configuration cannot be read."""
    from spacy import util

    meta = _read_meta(model)
    package = _package_folder(model)
    folder = package / "{lang}_{name}-{version}".format(**meta) if package and meta else Path(model)
    if not (folder / "config.cfg").is_file():
        return []
    components = util.load_config(folder / "config.cfg").get("components", {})
    return [name for name, config in components.items() if config.get("factory", "tagger") not in COMPONENTS]


def _explain(model: str, error: Exception) -> str:
    """The sentence for a pipeline that cannot be used: what is wrong with it, and the remedy."""
    is_installed = _package_folder(model) is not None
    problem = None if is_installed or Path(model).is_dir() else _missing_pipeline(model)
    if problem is None:
        reason = " ".join(re.split(r"\. |\n\n", str(error).strip())[0].split())[:160] or type(error).__name__
        problem = f"{_unusable_pipeline(model, error, is_installed)} ({reason})"
    return f"the spaCy pipeline {model!r} {problem}"


def _missing_pipeline(model: str) -> str:
    from spacy.util import OLD_MODEL_SHORTCUTS

    if Path(model).exists():
        return "is a file: unpack it and give the folder that holds config.cfg, or install it with pip"
    if "/" in model:
        return "cannot be loaded: there is no such folder; give one that holds config.cfg"
    name = OLD_MODEL_SHORTCUTS.get(model, model)
    return (
        f"cannot be loaded: it is not installed. Install it with: python -m spacy download {name}   or give a folder that "
        "holds one"
    )


def _unusable_pipeline(model: str, error: Exception, is_installed: bool) -> str:
    folder = Path(model)
    if plug_in := _missing_plug_in(model, error):
        return f"needs a plug-in: {plug_in}, or use a pipeline without it, such as en_core_web_sm"
    if mismatch := _version_mismatch(model):
        return f"{mismatch}, which cannot load it: {_remedy_of_version(model)}"
    if is_installed and not _read_meta(model):
        return "cannot be loaded: this package is no spaCy pipeline; use one such as en_core_web_sm"
    if is_installed:
        return f"is broken: install it again with pip uninstall {model} and python -m spacy download {model}"
    if (folder / "config.cfg").is_file():
        return "is broken: copy or download its folder again"
    inner = sorted([*folder.glob("*/config.cfg"), *folder.glob("*/*/config.cfg")])
    place = f"give the folder {inner[0].parent}" if inner else "give one that spaCy 3 has written"
    return f"cannot be loaded: the folder has no config.cfg; {place}"


def _missing_plug_in(model: str, error: Exception) -> str | None:
    """What to install if a package is missing, or a component or function that spaCy does not have itself."""
    unknown = re.search(r"Can't find factory for '([^']+)'|Could not find function '([^']+)'", str(error))
    if isinstance(error, ImportError):
        package = error.name.split(".")[0] if error.name else "what it asks for"
        return None if package == "spacy" else f"install {package} with pip"
    if not unknown:
        return None
    lines = _read_meta(model).get("requirements") or ()
    required = [re.split(r"[^\w.-]", str(line), maxsplit=1)[0] for line in lines]
    component, function = unknown.groups()
    package = PLUG_INS.get(component, "") if component else function.split(".")[0]
    missing = [name for name in required if not _is_installed(name)] or [package] * package.startswith("spacy-")
    if missing:
        return f"pip install {' '.join(missing)}"
    return None if package == "spacy" else f"install the package that has {component or function!r}"


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _version_mismatch(model: str) -> str | None:
    """What to say if the pipeline was made for another version of spaCy than the installed one."""
    import spacy
    from spacy import util

    constraint = str(_read_meta(model).get("spacy_version") or "")
    if not constraint or util.is_compatible_version(spacy.__version__, constraint) is not False:
        return None
    return f"was made for spaCy {constraint}, and {spacy.__version__} is installed"


def _remedy_of_version(model: str) -> str:
    constraint = _read_meta(model).get("spacy_version")
    if _package_folder(model):
        return f"install the one for this spaCy with: python -m spacy download {model}"
    return f"use one that was made for this spaCy, or install another spaCy: pip install 'spacy{constraint}'"
