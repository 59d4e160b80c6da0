"""A local Hugging Face Hub: it serves folders as repositories over HTTP and records every request."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ovseg.engine import weight_files

COMMIT = "c0ffee" + "0" * 34


@dataclass(frozen=True)
class Hub:
    """A running server.

    Attributes:
        root: folder of the repositories, root/OWNER/NAME.
        url: address, for `HF_ENDPOINT`.
        cache: folder of downloaded files.
        asked: path of every request.
    """

    root: Path
    url: str
    cache: Path
    asked: list[str] = field(default_factory=list)

    def put(self, repo: str, name: str, content: bytes) -> str:
        """Add a file; returns its sha256."""
        path = self.root / repo / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    def fresh(self) -> None:
        """Forget requests and resolved files, as a new process does."""
        self.asked.clear()
        weight_files._resolved.clear()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, root: Path, asked: list[str], *rest: object) -> None:
        self.root, self.asked = root, asked
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, body: bool) -> None:
        self.asked.append(self.path)
        repo, _, rest = self.path.strip("/").removeprefix("api/models/").partition("/resolve/")
        path = self.root / repo / rest.partition("/")[2]
        if not rest or not path.is_file():
            exists = (self.root / "/".join(repo.split("/")[:2])).is_dir()
            known = "EntryNotFound" if exists else "RepoNotFound"
            self._send(404, {"X-Error-Code": known, "X-Error-Message": known}, b"")
            return
        content = path.read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        self._send(200, {"ETag": f'"{etag}"'}, content, body)

    def _send(self, status: int, headers: dict[str, str], content: bytes, body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """Run a Hub within this context."""
    (folder / "repos").mkdir()
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, folder / "repos", asked))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Hub(folder / "repos", f"http://127.0.0.1:{server.server_port}", folder / "home" / "hub", asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process use it as the Hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("OVSEG_OFFLINE", raising=False)


def environment(hub: Hub, **more: str) -> dict[str, str]:
    """Variables that make another process use it as the Hub."""
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(hub.cache.parent), "HF_HUB_DISABLE_TELEMETRY": "1", **more}
