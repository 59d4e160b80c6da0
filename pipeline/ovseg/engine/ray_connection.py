"""The connection to a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any
from urllib.parse import urlsplit

from ovseg.core.errors import OvsegError

CONNECT_SECONDS = 10.0


def connect() -> Any:
    """Return the module `ray`, connected to the cluster at `RAY_ADDRESS`, or to one that is started here.

    Raises:
        OvsegError: Ray is not installed, or the cluster does not answer or asks for a token that this process does not give.
    """
    try:
        import ray
    except ImportError:
        raise OvsegError("--executor ray needs Ray: pip install -e '.[ray]' in the clone") from None
    if ray.is_initialized():
        return ray
    address = os.environ.get("RAY_ADDRESS", "")
    remedy = (
        "start it with `ray start --head` there, or set RAY_ADDRESS to HOST:PORT of a running one, or unset it to run on "
        "this machine"
    )
    _check_answers(address, remedy)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and its own
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        where = f"the Ray cluster at RAY_ADDRESS={address}" if address else "a Ray cluster on this machine"
        if _asks_for_token(error):
            raise OvsegError(
                f"{where} asks for a token, and this run gives none or another one; set RAY_AUTH_MODE=token for this run, and "
                "put the cluster's token in RAY_AUTH_TOKEN or in the file ~/.ray/auth_token"
            ) from None
        raise OvsegError(f"{where} cannot be used ({reason}); {remedy}") from None
    return ray


def _asks_for_token(error: BaseException | None) -> bool:
    """Whether Ray was refused for want of the right token; the errors that it meets on its way hold that of the refusal."""
    if error is None:
        return False
    return "AuthenticationError" in f"{type(error).__name__} {error}" or _asks_for_token(error.__cause__)


def _check_answers(address: str, remedy: str) -> None:
    """Raise OvsegError if nothing listens at an address HOST:PORT; Ray itself tries for minutes and prints warnings."""
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise OvsegError(f"RAY_ADDRESS={address} is no address HOST:PORT ({error}); {remedy}") from None
    if not host or not port:
        return  # "auto" and the like
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OvsegError(f"no Ray cluster answers at RAY_ADDRESS={address} ({reason}); {remedy}") from None
