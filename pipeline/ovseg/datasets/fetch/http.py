"""One file over HTTP: what is there already is kept, a cut connection continues, the checksum decides."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from ovseg.core.errors import OvsegError, explain_full_disk
from ovseg.core.files import write_json
from ovseg.engine.progress import Progress

log = logging.getLogger("ovseg")

CHUNK, MB = 1 << 16, 1 << 20
TRIES = 5  # in a row without a single new byte
AGAIN = (429, 500, 502, 503, 504)
SAYS = {
    401: "the server wants a login",
    403: "the server refuses it: it may want a login, or another country",
    404: "it is not there any more",
    410: "it is not there any more",
}
CUT = "the connection was cut"
RETRY = "Run the same command again: what was downloaded is kept"
MIRROR = "take it from elsewhere (OVSEG_MIRROR=https://...), or fetch it by hand (ovseg data get --archive FILE)"


def download(url: str, path: Path, *, size: int | None = None, timeout: float = 60, pause: float = 1) -> None:
    """Download a file. Unfinished, it is `path`.part, and the next call continues it where the server can.

    Args:
        url: http or https.
        path: to write to; its folder is made if needed.
        size: published bytes; None takes what the server says.
        timeout: seconds without a byte before the connection is made anew.
        pause: seconds before the first new try; doubled after each.

    Raises:
        OvsegError: no server, refused, not there, too many redirects, another size, no page but the file's own, no space left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with requests.Session() as session, explain_full_disk(path.parent):
        session.max_redirects = 10
        # answers alone: a connection that fails is said, and made anew below
        retry = Retry(
            TRIES,
            connect=0,
            read=0,
            redirect=False,
            backoff_factor=pause,
            status_forcelist=AGAIN,
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        idle = 0
        while True:
            before = _bytes(part)
            try:
                if _continue(session, url, part, size, timeout):
                    break
                problem = CUT
            except requests.exceptions.ChunkedEncodingError:
                problem = CUT
            except (requests.ConnectionError, requests.Timeout) as error:
                problem = _short(error)
            except requests.TooManyRedirects:
                raise OvsegError(f"{url} redirects more than 10 times; {MIRROR}") from None
            except requests.RequestException as error:
                raise OvsegError(f"{url}: {_short(error)}") from None
            idle = 0 if _bytes(part) > before else idle + 1
            if idle >= TRIES:
                raise OvsegError(f"{url}: {problem}, {_bytes(part):,} bytes are there. {RETRY}; or {MIRROR}")
            log.warning("%s: %s, trying again in %.0f s", url, problem, pause * 2**idle)
            time.sleep(pause * 2**idle)
    part.replace(path)
    _about(part).unlink(missing_ok=True)


def _continue(session: requests.Session, url: str, part: Path, size: int | None, timeout: float) -> bool:
    """One connection; whether the file is whole after it."""
    begun, about = _bytes(part), _read_about(part)
    if begun and (about.get("url") != url or not about.get("version")):
        begun = 0  # of another server, or of one that cannot say whether the file has changed since
    if begun and begun == about.get("bytes"):
        return True
    headers = {"Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={begun}-", "If-Range": about["version"]} if begun else {}
    with session.get(url, stream=True, timeout=(timeout, timeout), headers=headers) as answer:
        if answer.status_code == 416:  # more is there than the server has
            part.unlink()
            return False
        _check(answer, url, part)
        begun = begun if answer.status_code == 206 else 0
        total = begun + int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
        if size is not None and total not in (None, size):
            raise OvsegError(f"{url} has {total:,} bytes, {size:,} are published: it is another file; {MIRROR}")
        tag = answer.headers.get("ETag", "W/")  # a weak one cannot be asked for
        version = answer.headers.get("Last-Modified") if tag.startswith("W/") else tag
        write_json(_about(part), {"url": url, "version": version, "bytes": total})
        with part.open("r+b" if begun else "wb") as stream:
            stream.seek(begun)
            for piece in _shown(answer.iter_content(CHUNK), part.name.removesuffix(".part"), begun, total or size or 0):
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
    return total is None or _bytes(part) == total


def _check(answer: requests.Response, url: str, part: Path) -> None:
    """The server gives a file, and not a reason why it does not."""
    if answer.status_code not in (200, 206):
        said = SAYS.get(answer.status_code, answer.reason)
        raise OvsegError(f"{url}: {answer.status_code}, {said}. Look for it on the data set's page, or {MIRROR}")
    if answer.headers.get("Content-Type", "").startswith("text/html") and not part.name.endswith(".html.part"):
        raise OvsegError(
            f"{url} answers with a web page, not with the file: it may want a login. Log in with a browser, or {MIRROR}"
        )


def _shown(pieces: Iterator[bytes], name: str, begun: int, total: int) -> Iterator[bytes]:
    with Progress(f"download {name}", -(-total // MB), "MB") as progress:
        for _ in range(begun // MB):
            progress.add({}, reused=True)
        left = 0
        for piece in pieces:
            yield piece
            left += len(piece)
            for _ in range(left // MB):
                progress.add({"MB": 1})
            left %= MB


def _about(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_about(part: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(_about(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _short(error: Exception) -> str:
    """The innermost reason: requests wraps it three times."""
    while (inner := error.__cause__ or error.__context__) is not None and isinstance(inner, Exception):
        error = inner
    return str(error)[:200] or type(error).__name__
