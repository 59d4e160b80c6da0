"""A server on this machine for small files, which can fail in every way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep


@dataclass
class Served:
    """What the server gives, and how it misbehaves.

    Attributes:
        files: content by path.
        faults: by path: a status, or "cut" (closes in the middle, once), "cuts" (always), "slow" (stops in the middle, once),
            "loop" (redirects to itself), "page" (a web page instead), "redirect:/path", "no-range" (ignores Range).
        asked: how often each path was asked for.
        sent: bytes sent.
        tag: version of the files.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, str | int] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    tag: str = '"1"'


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's `served` says."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        served = self.server.served
        path = self.path.split("?")[0]
        served.asked[path] += 1
        fault, data = served.faults.get(path), served.files.get(path)
        if fault == "loop" or str(fault).startswith("redirect:"):
            self._head(302, 0, {"Location": path if fault == "loop" else str(fault)[9:]})
        elif isinstance(fault, int) or data is None:
            self._head(fault if isinstance(fault, int) else 404, 0, {})
        elif fault == "page":
            self._body(b"<html>please log in</html>", path, "text/html")
        else:
            self._body(data, path, "application/octet-stream")

    def _head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, data: bytes, path: str, kind: str) -> None:
        served = self.server.served
        fault = served.faults.get(path)
        start = 0
        if "Range" in self.headers and self.headers.get("If-Range") in (None, served.tag) and fault != "no-range":
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        headers = {"Content-Type": kind, "ETag": served.tag}
        headers |= {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self._head(206 if start else 200, len(data) - start, headers)
        body = data[start:]
        breaks = fault in ("cut", "cuts", "slow")
        if breaks:
            body = body[: max(1, len(body) // 2)]
            if fault != "cuts":
                del served.faults[path]
        with suppress(OSError):
            self.wfile.write(body)
            served.sent += len(body)
        if fault == "slow":
            sleep(2)
        if breaks:
            self.close_connection = True
            self.connection.close()


class Server(ThreadingHTTPServer):
    """One thread for each connection; what a client that goes away breaks is not shown."""

    daemon_threads = True
    served: Served

    def handle_error(self, *args: object) -> None:
        pass


@contextmanager
def serving(handler: type[Handler] = Handler) -> Iterator[Served]:
    """A server on this machine for as long as this lasts."""
    with Server(("127.0.0.1", 0), handler) as http:
        http.served = Served(f"http://127.0.0.1:{http.server_port}")
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield http.served
        http.shutdown()
