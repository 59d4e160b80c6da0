"""Download one file over HTTP; a cut connection continues where it stopped.

The unfinished file is `PATH.part`, and `PATH.part.json` records its address, its version on the server and its size. The
finished file gets its own name in one step, so a file that is there is whole.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from filelock import FileLock
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from ovseg.core.errors import OvsegError, explain_write_errors
from ovseg.core.files import write_json
from ovseg.engine.progress import Progress

log = logging.getLogger("ovseg")

OFFLINE = "OVSEG_OFFLINE"
CHUNK, MB = 1 << 16, 1 << 20
MAX_REDIRECTS = 10
MAX_IDLE_ATTEMPTS = 5  # attempts in a row that brought no new byte
RETRIED_STATUSES = (429, 500, 502, 503, 504)
STATUS_MEANINGS = {
    401: "the server asks for a login",
    403: "the server refuses access; it may ask for a login or exclude some countries",
    404: "the file is not there any more",
    410: "the file is not there any more",
}
CUT = "the connection was cut"


def offline() -> bool:
    """Whether `OVSEG_OFFLINE` keeps this process off the network; see `is_on` for the error."""
    return is_on(OFFLINE)


def is_on(variable: str) -> bool:
    """Whether an environment variable that is a switch is on.

    Raises:
        OvsegError: it is neither 0 nor 1.
    """
    value = os.environ.get(variable, "0")
    if value not in ("", "0", "1"):
        raise OvsegError(f"{variable}={value!r} must be 1 (on) or 0 (off)")
    return value == "1"


@contextmanager
def stay_offline() -> Iterator[None]:
    """Keep this process off the network within this context, as `OVSEG_OFFLINE=1` does."""
    before = os.environ.get(OFFLINE)
    os.environ[OFFLINE] = "1"
    try:
        yield
    finally:
        del os.environ[OFFLINE]
        os.environ.update({} if before is None else {OFFLINE: before})


def download(
    url: str, path: Path, *, remedy: str, size: int | None = None, timeout: float = 60, pause: float = 1
) -> None:
    """Download a file, or continue a download that was stopped. A file that is there already is left alone.

    Processes that ask for the same file at the same time wait for the first of them.

    Args:
        url: address of the file, http or https.
        path: file to write. Its folder is made if needed.
        remedy: what else the user can do, for error messages: an imperative clause without a full stop.
        size: published size in bytes; None accepts the size that the server states.
        timeout: seconds without a byte after which the connection is made anew.
        pause: seconds before the second attempt, doubled after each further one.

    Raises:
        OvsegError: if the server cannot be reached, refuses, redirects too often, or answers with a web page or a file of
            another size; or if no space is left.
    """
    part, lock = path.with_name(path.name + ".part"), lock_path(path)
    with explain_write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with explain_write_errors(path.parent), FileLock(lock):
        try:
            if not path.is_file():
                _download(url, part, remedy, size, timeout, pause)
                part.replace(path)
                _state_path(part).unlink(missing_ok=True)
        finally:
            lock.unlink(missing_ok=True)  # a waiting process sees that its lock file is gone, and takes a new one


def lock_path(path: Path) -> Path:
    """The file that is locked while `path` is downloaded; a process that was killed leaves it behind."""
    return path.with_name(path.name + ".part.lock")


def _download(url: str, part: Path, remedy: str, size: int | None, timeout: float, pause: float) -> None:
    with requests.Session() as session:
        session.max_redirects = MAX_REDIRECTS
        # Only bad answers are retried here: a connection that fails is logged and made anew by the loop below.
        retry = Retry(
            MAX_IDLE_ATTEMPTS,
            connect=0,
            read=0,
            redirect=False,
            backoff_factor=pause,
            status_forcelist=RETRIED_STATUSES,
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        idle_attempts = 0
        while True:
            size_before = _file_size(part)
            try:
                if _continue_download(session, url, part, remedy, size, timeout):
                    return
                problem = CUT
            except requests.exceptions.ChunkedEncodingError:
                problem = CUT
            except (requests.ConnectionError, requests.Timeout) as error:
                problem = _innermost_reason(error)
            except requests.TooManyRedirects:
                raise OvsegError(f"{url} redirects more than {MAX_REDIRECTS} times; {remedy}") from None
            except requests.RequestException as error:
                raise OvsegError(f"{url} cannot be downloaded ({_innermost_reason(error)}); {remedy}") from None
            idle_attempts = 0 if _file_size(part) > size_before else idle_attempts + 1
            if idle_attempts >= MAX_IDLE_ATTEMPTS:
                raise OvsegError(
                    f"{url} cannot be downloaded ({problem}). The {_file_size(part):,} bytes that arrived are kept: run the "
                    f"same command again to continue, or {remedy}"
                )
            seconds = pause * 2**idle_attempts
            log.warning("%s: %s, next attempt in %.0f s", url, problem, seconds)
            time.sleep(seconds)


def _continue_download(
    session: requests.Session, url: str, part: Path, remedy: str, size: int | None, timeout: float
) -> bool:
    """Make one connection and write what it brings; whether the file is whole afterwards."""
    start, state = _file_size(part), _read_state(part)
    if start and (state.get("url") != url or not state.get("version")):
        start = 0  # from another server, or from one that cannot say whether the file has changed since
    if start and start == state.get("bytes"):
        return True
    headers = {"Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={start}-", "If-Range": state["version"]} if start else {}
    with session.get(url, stream=True, timeout=(timeout, timeout), headers=headers) as answer:
        if answer.status_code == 416:  # more bytes are here than the server has
            part.unlink()
            return False
        _check_answer(answer, url, part, remedy)
        start = start if answer.status_code == 206 else 0
        total = start + int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
        if size is not None and total not in (None, size):
            raise OvsegError(f"{url} has {total:,} bytes, but {size:,} are published: it is another file; {remedy}")
        tag = answer.headers.get("ETag", "W/")  # a weak tag cannot be used for a range
        version = answer.headers.get("Last-Modified") if tag.startswith("W/") else tag
        write_json(_state_path(part), {"url": url, "version": version, "bytes": total})
        with part.open("r+b" if start else "wb") as stream:
            stream.seek(start)
            name = part.name.removesuffix(".part")
            for piece in _with_progress(answer.iter_content(CHUNK), name, start, total or size or 0):
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
    return total is None or _file_size(part) == total


def _check_answer(answer: requests.Response, url: str, part: Path, remedy: str) -> None:
    """Raise OvsegError unless the answer is the file."""
    if answer.status_code not in (200, 206):
        meaning = STATUS_MEANINGS.get(answer.status_code, answer.reason)
        raise OvsegError(f"{url} answers with status {answer.status_code} ({meaning}); {remedy}")
    if answer.headers.get("Content-Type", "").startswith("text/html") and not part.name.endswith(".html.part"):
        raise OvsegError(
            f"{url} answers with a web page instead of the file, so it may ask for a login: open it in a browser, or {remedy}"
        )


def _with_progress(pieces: Iterator[bytes], name: str, start: int, total: int) -> Iterator[bytes]:
    with Progress(f"download {name}", -(-total // MB), "MB") as progress:
        for _ in range(start // MB):
            progress.add({}, reused=True)
        uncounted = 0
        for piece in pieces:
            yield piece
            uncounted += len(piece)
            for _ in range(uncounted // MB):
                progress.add({"MB": 1})
            uncounted %= MB


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_state(part: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(_state_path(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state


def _file_size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _innermost_reason(error: Exception) -> str:
    """The message of the innermost exception, because requests wraps it three times."""
    while (inner := error.__cause__ or error.__context__) is not None and isinstance(inner, Exception):
        error = inner
    return str(error)[:200] or type(error).__name__
