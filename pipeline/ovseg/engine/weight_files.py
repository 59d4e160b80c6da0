"""Find the files of published models: in a cache on this machine, on the Hugging Face Hub, or at an address.

`OVSEG_OFFLINE=1` keeps a run off the network; a file that is not on this machine is then an error at once. With and without it,
the message says what is missing, where it comes from, which folder it belongs in, and how large it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from ovseg.core import weights
from ovseg.core.errors import OvsegError, explain_write_errors
from ovseg.engine.download import OFFLINE, download, offline, stay_offline

CARD = "README.md"
DIGEST = re.compile(r"[-/]([0-9a-f]{8,64})[./]")  # a sha256 or its beginning, as publishers put it into an address

Gigabytes = Callable[[], float | None]
"""Size of a file in GB, computed only when a message needs it; None if it is not known."""


class NotCachedError(OvsegError):
    """A file would have to be downloaded, and `OVSEG_OFFLINE=1` forbids that."""


@contextmanager
def skip_downloads() -> Iterator[None]:
    """Leave this context at the first file that is not on this machine, or raise its error if `OVSEG_OFFLINE=1`."""
    was_offline = offline()
    try:
        with stay_offline():
            yield
    except NotCachedError:
        if was_offline:
            raise


class _NotInRepositoryError(OvsegError):
    """A repository holds none of the files that were looked for."""


_resolved: dict[tuple[str | None, ...], Path] = {}  # a process looks a file up once, and so sees one version of it


@contextmanager
def respect_offline() -> Iterator[None]:
    """Within this context, the Hub's client and libraries built on it open no connection if `OVSEG_OFFLINE=1`."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or offline()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def find_cached(repo: str, name: str, commit: str | None = None) -> Path | None:
    """The place of a file of the Hub in this machine's cache; None if it is not cached.

    Args:
        repo: "OWNER/NAME".
        name: name of the file in the repository.
        commit: commit of the repository; None for the newest that was cached.
    """
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo, name, revision=commit)
    return Path(path) if isinstance(path, str) else None


def fetch_from_hub(
    what: str,
    repo: str,
    names: Sequence[str],
    gigabytes: Gigabytes = lambda: None,
    commit: str | None = None,
    hf_download_arguments: str | None = None,
) -> Path:
    """Return the place of a file of the Hub, after downloading it into the cache if needed.

    Args:
        what: what the file is, for messages ("the weights of ViT-B-16:openai").
        repo: "OWNER/NAME".
        names: names that the file may have; the first that the repository holds is taken.
        gigabytes: see `Gigabytes`.
        commit: commit of the repository; None for the newest.
        hf_download_arguments: what else is needed together with this file, as arguments of `hf download` in messages; None
            for the first name alone.

    Raises:
        OvsegError: if there is no such repository or file, or it is not cached and cannot be downloaded because there is no
            network, or because `OVSEG_OFFLINE=1`.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import repo_folder_name

    if str(constants.HF_HUB_CACHE).startswith("~"):
        raise OvsegError(
            f"there is no place for {what}, because this user has no home folder; set HF_HOME to a folder, or HOME"
        )
    key = (constants.HF_HUB_CACHE, repo, commit, *names)
    if key in _resolved and _resolved[key].is_file():
        return _resolved[key]
    try:
        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
        url = hf_hub_url(repo, names[0], revision=commit)
        cached = next((path for name in names if (path := find_cached(repo, name, commit))), None)
    except HFValidationError:
        raise OvsegError(f"{repo!r} is neither a folder nor a name on the Hub (OWNER/NAME): no {what}") from None
    command = f"hf download {repo} {hf_download_arguments or names[0]}"
    remedy = f"run `{command}` on a machine with a network and copy {folder.name} from its cache to {folder}"
    if not offline():
        _resolved[key] = _download_from_hub(what, repo, names, commit, cached, folder, _facts(url, gigabytes, remedy))
    elif cached is not None:
        _resolved[key] = cached
    else:
        raise _missing_offline(what, _facts(url, gigabytes, remedy))
    return _resolved[key]


def fetch_optional(what: str, repo: str, name: str, commit: str | None) -> Path | None:
    """Return the place of a file that a repository of the Hub may lack, after downloading it into the cache if needed.

    Args:
        what: what the file is, for messages.
        repo: "OWNER/NAME".
        name: the name of the file.
        commit: the commit of the repository; what it lacks is looked up once. None for the newest.

    Returns:
        None if the repository lacks it, or if it is not cached and `OVSEG_OFFLINE=1`.

    Raises:
        OvsegError: it cannot be looked up or downloaded.
    """
    from huggingface_hub import try_to_load_from_cache

    known = try_to_load_from_cache(repo, name, revision=commit)
    if known is not None or offline():
        return Path(known) if isinstance(known, str) else None
    try:
        return fetch_from_hub(what, repo, [name], commit=commit)
    except _NotInRepositoryError:
        return None
    except OvsegError as error:
        raise OvsegError(f"{error}; {OFFLINE}=1 takes {repo} as it is in the cache") from None


def _download_from_hub(
    what: str,
    repo: str,
    names: Sequence[str],
    commit: str | None,
    cached: Path | None,
    folder: Path,
    facts: Callable[[], str],
) -> Path:
    """The newest version of a file of the Hub, or the `cached` one if there is no network."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    for name in names:
        try:
            with explain_write_errors(folder):
                return Path(hf_hub_download(repo, name, revision=commit))
        except RemoteEntryNotFoundError:
            continue
        except OvsegError:
            raise
        except Exception as error:  # the Hub's client raises exceptions of its HTTP library, whichever that is
            if cached is not None:
                return cached
            cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
            reason = (str(cause) or type(cause).__name__).splitlines()[0]
            raise OvsegError(f"{what} cannot be downloaded ({reason}). {facts()}") from None
    raise _NotInRepositoryError(
        f"{repo} on the Hub holds no {' nor '.join(names)}, so there is nothing to take as {what}"
    )


def fetch_from_url(what: str, url: str, folder: Path, gigabytes: Gigabytes = lambda: None) -> Path:
    """Return the place of a file that is published at an address, after downloading it if needed.

    Args:
        what: what the file is, for messages.
        url: address whose last part names the file; a sha256 in it is checked.
        folder: folder that such files are kept in.
        gigabytes: see `Gigabytes`.

    Raises:
        OvsegError: if the file is not there and cannot be downloaded, as in `fetch_from_hub`; or if its sha256 is not the one
            in the address.
    """
    path = folder / url.rsplit("/", maxsplit=1)[-1]
    if not path.is_file():
        remedy = f"download it on a machine with a network and copy it to {path}"
        facts = _facts(url, gigabytes, remedy)
        if offline():
            raise _missing_offline(what, facts)
        try:
            download(url, path, remedy=f"{remedy} ({_size_phrase(gigabytes)})")
        except (OvsegError, OSError) as error:  # of the network, or of a folder that cannot be written to
            raise OvsegError(f"{what} cannot be downloaded: {error}") from None
    digests = DIGEST.findall(url)
    if digests and not weights.sha256(path).startswith(digests[-1]):
        raise OvsegError(
            f"{path} is damaged or another file: its sha256 does not begin with {digests[-1]}. Remove it and run the same "
            "command again"
        )
    return path


def licence(model: str) -> str | None:
    """The license that the card of a checkpoint states in its metadata; None if it states none or cannot be read.

    Args:
        model: a folder, or "OWNER/NAME" on the Hub.
    """
    from huggingface_hub import ModelCard

    try:
        path = Path(model) / CARD if Path(model).is_dir() else fetch_from_hub(f"the card of {model}", model, [CARD])
        metadata = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    except (OvsegError, OSError, ValueError, TypeError, yaml.YAMLError):
        return None
    stated = metadata.get("license_name") or metadata.get("license")
    return None if stated is None else str(stated)


def _facts(url: str, gigabytes: Gigabytes, remedy: str) -> Callable[[], str]:
    def describe() -> str:
        return f"It comes from {url} ({_size_phrase(gigabytes)}). If there is no network here, {remedy}"

    return describe


def _missing_offline(what: str, facts: Callable[[], str]) -> NotCachedError:
    return NotCachedError(
        f"{what} is not on this machine, and {OFFLINE}=1 forbids downloads. {facts()}; otherwise unset {OFFLINE}"
    )


def _size_phrase(gigabytes: Gigabytes) -> str:
    size = gigabytes()
    if size is None:
        return "size unknown"
    return f"about {size:.1f} GB" if size >= 0.1 else "less than 0.1 GB"
