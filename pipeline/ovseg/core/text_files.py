"""Text files of users, in any encoding of Unicode: with or without a byte order mark, UTF-8, UTF-16 or UTF-32."""

from __future__ import annotations

import json
from pathlib import Path

from ovseg.core.errors import OvsegError


def read_text(path: Path) -> str:
    """Read a text file in any encoding of Unicode.

    Raises:
        OvsegError: the file is not text in UTF-8, UTF-16 or UTF-32; the message says where.
        OSError: the file cannot be read.
    """
    return decode_text(path.read_bytes(), path)


def decode_text(data: bytes, name: object, default: str = "utf-8") -> str:
    """Decode the bytes of a text file. A byte order mark, or zero bytes at its beginning, tell its encoding.

    Args:
        data: all bytes of the file.
        name: name of the file, for the error message.
        default: encoding of a file that tells none.

    Raises:
        OvsegError: the bytes are not text in that encoding; the message says where.
    """
    encoding = detect_encoding(data[:4]) or default
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise OvsegError(f"{name} {not_text(error, data)}") from None


def detect_encoding(head: bytes) -> str | None:
    """Return the encoding that the first four bytes of a file tell; None if they tell none.

    The returned encodings skip a byte order mark. Text in UTF-16 or UTF-32 has zero bytes if it begins with ASCII letters.
    """
    encoding = json.detect_encoding(head) if head.strip(b"\0") else "utf-8"
    return None if encoding == "utf-8" else str(encoding)


def not_text(error: UnicodeDecodeError, data: bytes) -> str:
    """Describe an error of decoding `data`, the beginning or all of a file, as the second part of a sentence."""
    name = {"utf": error.encoding.upper().removesuffix("-SIG")}.get(error.encoding[:3].lower(), error.encoding)
    if error.start >= len(data) - 3 and error.reason in ("truncated data", "unexpected end of data"):
        return f"ends inside a character of {name}, after {len(data):,} bytes: the end of the file is missing"
    line = data.count(b"\n", 0, error.start) + 1
    return (
        f"is not text in {name}: byte 0x{data[error.start]:02x} at {error.start:,} (line {line}): {error.reason}. "
        "Save it as UTF-8"
    )
