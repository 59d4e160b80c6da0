"""Weights that somebody else made: where a file lies, which version it is, and what is said when it is not there.

`OVSEG_OFFLINE=1` keeps a run off the network: what is not on this machine is then an error at once. Either way the message
says what is missing, where it comes from, into which folder it belongs, and how large it is.
"""

from __future__ import annotations

import os
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from ovseg.core import hashing
from ovseg.core.errors import OvsegError, explain_full_disk

OFFLINE = "OVSEG_OFFLINE"
CARD = "README.md"
DIGEST = re.compile(r"[-/]([0-9a-f]{8,64})[./]")  # a sha256 or its beginning, as publishers put it into an address

_found: dict[tuple[str | None, ...], Path] = {}  # a process asks for a file once, and so sees one version of it

Size = Callable[[], float | None]
"""Gigabytes of a file, worked out only when a message needs it; None if nobody knows."""


@dataclass(frozen=True)
class Weights:
    """Exactly which weights something was made with.

    Attributes:
        model, pretrained: as the user names them.
        source: "hf-hub:OWNER/NAME/FILE", an address, "file" for what the user has, or "random".
        revision: commit of the repository on the Hub; None elsewhere.
        sha256: of the file, 64 hex digits; None for random weights.
    """

    model: str
    pretrained: str | None
    source: str
    revision: str | None
    sha256: str | None


def offline() -> bool:
    """Whether `OVSEG_OFFLINE` keeps this process off the network.

    Raises:
        OvsegError: it is neither 0 nor 1.
    """
    value = os.environ.get(OFFLINE, "0")
    if value not in ("", "0", "1"):
        raise OvsegError(f"{OFFLINE}={value!r} must be 1 (never use the network) or 0")
    return value == "1"


@contextmanager
def respect_offline() -> Iterator[None]:
    """While this lasts, the Hub's client and what is built on it open no connection, if `OVSEG_OFFLINE=1`."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or offline()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def cached(repo: str, name: str, commit: str | None = None) -> Path | None:
    """Where a file of the Hub lies in the cache of this machine; None if it does not.

    Args:
        repo: "OWNER/NAME".
        name: of the file.
        commit: of the repository; None for the newest that was seen.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, revision=commit)
    return Path(found) if isinstance(found, str) else None


def fetch(
    what: str,
    repo: str,
    names: Sequence[str],
    size: Size = lambda: None,
    commit: str | None = None,
    wanted: str | None = None,
) -> Path:
    """A file of the Hub: from the cache, or downloaded into it.

    Args:
        what: the file is, for the messages ("the weights of ViT-B-16:openai").
        repo: "OWNER/NAME".
        names: that it may have, the first that the repository holds is taken.
        size: see `Size`.
        commit: as in `cached`.
        wanted: all that should be downloaded when this is, as arguments of `hf download`; None for the first name.

    Raises:
        OvsegError: no such repository or file; no network; `OVSEG_OFFLINE=1` and it is not in the cache.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import repo_folder_name

    key = (constants.HF_HUB_CACHE, repo, commit, *names)
    if key in _found and _found[key].is_file():
        return _found[key]
    try:
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
        command = f"hf download {repo} {wanted or names[0]}"
        remedy = f"On a machine with a network, `{command}` puts it into that folder of its cache: copy the folder here"
        facts = _facts(hf_hub_url(repo, names[0], revision=commit), folder, size, remedy)
        here = next((path for name in names if (path := cached(repo, name, commit))), None)
        if not offline():
            _found[key] = _download(what, repo, names, commit, folder, here, facts)
        elif here is not None:
            _found[key] = here
        else:
            raise OvsegError(_absent(what, facts))
    except HFValidationError:
        raise OvsegError(f"{repo!r} is neither a folder nor a name on the Hub (OWNER/NAME): no {what}") from None
    return _found[key]


def _download(
    what: str,
    repo: str,
    names: Sequence[str],
    commit: str | None,
    folder: Path,
    here: Path | None,
    facts: Callable[[], str],
) -> Path:
    """The newest version of a file of the Hub; without a network `here`, the one that is cached."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    for name in names:
        try:
            with explain_full_disk(folder):
                return Path(hf_hub_download(repo, name, revision=commit))
        except RemoteEntryNotFoundError:
            continue
        except OvsegError:
            raise
        except Exception as error:  # also of the Hub's HTTP library, whichever that is
            if here is not None:
                return here
            reason = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
            raise OvsegError(_failed(what, facts(), reason)) from None
    raise OvsegError(f"{repo} on the Hub holds no {' nor '.join(names)}, so there is nothing to take as {what}")


def fetch_url(what: str, url: str, folder: Path, size: Size = lambda: None) -> Path:
    """A file at an address: from the folder it is kept in, or downloaded into it.

    Args:
        what, size: as in `fetch`.
        url: whose last part names the file; a sha256 in it is checked.
        folder: of such downloads.

    Raises:
        OvsegError: as `fetch`; the file is not the one that the address promises.
    """
    path = folder / url.rsplit("/", maxsplit=1)[-1]
    facts = _facts(url, folder, size, "Download it on a machine with a network, and copy it there")
    if not path.is_file():
        if offline():
            raise OvsegError(_absent(what, facts))
        begun = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            with explain_full_disk(folder):
                folder.mkdir(parents=True, exist_ok=True)
                with urllib.request.urlopen(url) as source, begun.open("wb") as target:  # noqa: S310 - from a registry
                    shutil.copyfileobj(source, target)
                begun.replace(path)
        except OSError as error:
            begun.unlink(missing_ok=True)
            raise OvsegError(_failed(what, facts(), error)) from None
    promised = DIGEST.findall(url)
    if promised and not sha256(path).startswith(promised[-1]):
        raise OvsegError(f"{path} is damaged or another file: its sha256 does not begin with {promised[-1]}. Remove it")
    return path


def revision(path: Path) -> str | None:
    """The commit that a file in the Hub's cache belongs to; None for another file."""
    place = _snapshot(path)
    return None if place is None else path.parts[place + 1]


def repository(path: Path) -> str | None:
    """The repository "OWNER/NAME" that a file in the Hub's cache comes from; None for another file."""
    place = _snapshot(path)
    return None if place is None else "/".join(path.parts[place - 1].split("--")[1:])


def sha256(*paths: Path) -> str:
    """sha256 of a file, or of the sha256s of several, 64 hex digits; a file that did not change is read once."""
    found = [_sha256(path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return found[0] if len(found) == 1 else hashing.sha256_bytes("\n".join(found).encode())


def identify(model: str, pretrained: str | None, *paths: Path) -> Weights:
    """The account of weights that lie in one file, or in the shards of one.

    Args:
        model, pretrained: as the user names them.
        paths: of the files, in the Hub's cache or elsewhere.
    """
    repo = repository(paths[0])
    source = "file" if repo is None else f"hf-hub:{repo}/{paths[0].name}"
    return Weights(model, pretrained, source, revision(paths[0]), sha256(*paths))


def licence(model: str) -> str | None:
    """The licence that a checkpoint's own card states in its front matter; None if it states none, or cannot be asked.

    Args:
        model: a folder, or "OWNER/NAME" on the Hub.
    """
    try:
        path = Path(model) / CARD if Path(model).is_dir() else fetch(f"the card of {model}", model, [CARD])
        _, front, _ = path.read_text(encoding="utf-8").split("---\n", maxsplit=2)
        stated = yaml.safe_load(front)
        found = stated.get("license_name") or stated.get("license")
    except (OvsegError, OSError, ValueError, AttributeError, yaml.YAMLError):
        return None
    return None if found is None else str(found)


def _facts(url: str, folder: Path, size: Size, remedy: str) -> Callable[[], str]:
    def tell() -> str:
        gigabytes = size()
        large = "of a size that only its publisher knows" if gigabytes is None else _about(gigabytes)
        return f"It comes from {url}, is {large}, and belongs into {folder}. {remedy}"

    return tell


def _absent(what: str, facts: Callable[[], str]) -> str:
    return f"{what}: not on this machine, and {OFFLINE}=1 keeps ovseg off the network. {facts()}, or unset {OFFLINE}"


def _failed(what: str, facts: str, reason: BaseException) -> str:
    said = (str(reason) or type(reason).__name__).splitlines()[0]
    return f"{what}: cannot be downloaded ({said}). {facts}, or try again when the network is there"


def _about(gigabytes: float) -> str:
    return f"about {gigabytes:.1f} GB" if gigabytes >= 0.1 else "less than 0.1 GB"


def _snapshot(path: Path) -> int | None:
    """The place of "snapshots" in .../models--OWNER--NAME/snapshots/COMMIT/FILE."""
    for place in range(1, len(path.parts) - 2):
        if path.parts[place] == "snapshots" and path.parts[place - 1].startswith("models--"):
            return place
    return None


@cache
def _sha256(path: Path, _size: int, _changed: int) -> str:
    return hashing.sha256_file(path)
