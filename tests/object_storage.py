"""A real S3 server on this machine (moto's), behind a proxy that can fail in every way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import sleep
from urllib.parse import unquote, urlsplit

SLOW = 0.5  # seconds that a slow answer stops in its middle


@dataclass
class Storage:
    """The server, and how it misbehaves.

    Attributes:
        url: its address.
        faults: by "METHOD end of the path": the faults of the next answers, each a status, "cut" (the connection ends in the
            middle of the body) or "slow" (it stops there for a while); "500 always" and "cut always" stay.
        answered: how often each fault was given.
    """

    url: str
    moto: tuple[str, int]
    faults: dict[str, list[str]] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, method: str, path: str) -> str | None:
        with self.lock:
            for place, faults in self.faults.items():
                if faults and method == place.split()[0] and path.endswith(place.split()[1]):
                    fault = faults[0] if "always" in faults[0] else faults.pop(0)
                    self.answered[fault.split()[0]] += 1
                    return fault.split()[0]
        return None


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _forward(self) -> None:
        storage = self.server.storage
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = storage.next_fault(self.command, unquote(urlsplit(self.path).path))
        if fault is not None and fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = HTTPConnection(*storage.moto)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        self.send_response(answer.status)
        length = answer.headers["Content-Length"] if self.command == "HEAD" else str(len(data))
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        half = len(data) // 2
        with suppress(OSError):
            self.wfile.write(data[:half])
            if fault == "cut":
                self.close_connection = True
                self.connection.close()
                return
            if fault == "slow":
                sleep(SLOW)
            self.wfile.write(data[half:])


for _method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
    setattr(_Proxy, f"do_{_method}", _Proxy._forward)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    storage: Storage

    def handle_error(self, *args: object) -> None:
        pass


@contextmanager
def serving_s3() -> Iterator[Storage]:
    """The server and its proxy for as long as this lasts."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    with _Server(("127.0.0.1", 0), _Proxy) as proxy:
        proxy.storage = Storage(f"http://127.0.0.1:{proxy.server_port}", moto.get_host_and_port())
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield proxy.storage
        proxy.shutdown()
    moto.stop()


def upload(folder: Path, target: Path) -> Path:
    """Copy a folder, or a file, of this machine to object storage."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        if path.is_file():
            (target / path.relative_to(folder) if folder.is_dir() else target).write_bytes(path.read_bytes())
    return target


def download(folder: Path, target: Path) -> Path:
    """Copy a folder in object storage to this machine."""
    for path in folder.rglob("*"):
        if path.is_file():
            copy = target / str(path).removeprefix(str(folder)).lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return target
