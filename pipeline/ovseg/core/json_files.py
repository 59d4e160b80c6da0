"""Reading JSON files of users, in one place: any encoding of Unicode, NaN and Infinity, and errors that say where they are.

Files of a few megabytes are read whole (`read_json`). Larger ones are streamed (`iter_json`): instances_train2017.json alone
would take gigabytes in every worker process.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import mmap
import os
import re
from collections.abc import Generator, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import ijson

from ovseg.core.errors import OvsegError
from ovseg.core.text_files import decode_text, detect_encoding, not_text

CHUNK = 1 << 16  # bytes that are parsed at a time
LONGEST_LINE = 1 << 20
CONTEXT = 30  # characters of the file that an error shows before the place where it is broken
OTHER_FORMATS = (
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
    (b"PAR1", "a Parquet file"),
    (b"version https://git-lfs", "a pointer of Git LFS; get the file itself with `git lfs pull`"),
    (b"<", "HTML or XML, such as the error page of a server; download it again"),
)
WHOLE_NUMBER = re.compile(r"\s*([+-]?[0-9]+)(?:\.0*)?\s*")
TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|"|-?\b(?:NaN|Infinity)\b', re.DOTALL)
MARK = "\ufdd0".encode()  # a code point of which Unicode promises that no text has it
NUMBERS = {MARK.decode() + token: float(token) for token in ("NaN", "Infinity", "-Infinity")}
LONGEST_TOKEN = len(b"-Infinity")
BEFORE_NUMBER, AFTER_NUMBER = re.compile(rb"[:,\[]\s*-?\Z"), re.compile(rb"\s*[,\]}]")


def read_json(path: Path) -> Any:
    """Read a whole JSON file.

    Raises:
        OvsegError: the file is not JSON; the message says what is wrong and where.
        OSError: the file cannot be read.
    """
    return parse_json(path.read_bytes(), path)


def parse_json(data: bytes, name: object, default: str = "utf-8") -> Any:
    """Parse the bytes of a JSON file.

    Args:
        data: all bytes of the file.
        name: name of the file, for the error message.
        default: encoding of a file without a byte order mark; JSON in UTF-16 and UTF-32 is recognized without one.

    Raises:
        OvsegError: the bytes are not JSON; the message says what is wrong and where.
    """
    if other := _other_format(data):
        raise OvsegError(f"{name} is broken JSON: it is {other}")
    text = decode_text(data, name, default)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if not text[error.pos :].strip(" \t\r\n\0") or error.msg.startswith("Unterminated string"):
            raise OvsegError(f"{name} is broken JSON: {_cut_off(len(data))}") from None
        near = text[max(0, error.pos - CONTEXT) : error.pos + CONTEXT // 2]
        place = f"line {error.lineno}, column {error.colno}, near {near!r}"
        raise OvsegError(f"{name} is broken JSON ({error.msg[0].lower()}{error.msg[1:]}): {place}") from None
    except RecursionError:
        raise OvsegError(f"{name} is broken JSON: its lists are nested too deeply") from None


def iter_json(path: Path, prefix: str, lines: bool = False) -> Iterator[Any]:
    """Stream the values of a JSON file that are under a prefix, with constant memory.

    NaN, Infinity and -Infinity, which JSON does not have but Python writes, are read as these numbers.

    Args:
        path: the file.
        prefix: place of the values, as ijson writes it: "images.item" for the entries of the list "images", "" for the
            whole content.
        lines: whether the file holds several values one after the other ("JSON lines").

    Raises:
        OvsegError: the file is not JSON; the message says what is wrong and where.
    """
    plain = _is_plain(path)
    values = ijson.sendable_list()
    parser = ijson.items_coro(values, prefix, use_float=True, multiple_values=lines)
    number = -1
    try:
        for number, chunk in enumerate(_chunks(path)):  # noqa: B007 - the number of the broken chunk is used below
            parser.send(chunk)
            yield from values if plain else map(_with_nan, values)
            del values[:]
    except ijson.JSONError as error:
        raise OvsegError(f"{path} is broken JSON {_locate(path, number, error, lines)}") from None
    try:
        parser.close()
    except ijson.JSONError:
        raise OvsegError(f"{path} is broken JSON: {_cut_off(path.stat().st_size)}") from None
    yield from values if plain else map(_with_nan, values)


def first_value(path: Path) -> tuple[Any, str]:
    """Return the first value of a JSON file, and the letter that follows it: "" at the end of the file.

    The value is None if it is longer than a megabyte or broken, and the letter then is the first one of the file. "JSON lines"
    have a small object that is followed by "{".

    Raises:
        OvsegError: the file is of another format, or is not text.
    """
    text = ""
    for chunk in _chunks(path):
        text = (text + chunk.decode("utf-8", "replace")).lstrip()
        if len(text) > LONGEST_LINE:
            break
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None, text[:1]
    return value, text[end:].lstrip()[:1]


def top_level_keys(path: Path) -> list[str]:
    """Return the keys of the object that a JSON file holds, in order; empty if it holds something else.

    Raises:
        OvsegError: the file is of another format, or is not text.
    """
    keys: list[str] = []
    events = ijson.sendable_list()
    parser = ijson.parse_coro(events, use_float=True)
    with contextlib.suppress(ijson.JSONError):
        for chunk in _chunks(path):
            parser.send(chunk)
            keys += [str(value) for prefix, event, value in events if not prefix and event == "map_key"]
            del events[:]
    return keys


def whole_number(value: Any) -> int | None:
    """Return the whole number that a value stands for: 3, 3.0, "3" or "000003"; None for anything else."""
    if isinstance(value, str):
        match = WHOLE_NUMBER.fullmatch(value)
        value = int(match[1]) if match and len(match[1].lstrip("+-0")) < 20 else None
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else None
    return value if type(value) is int and abs(value) < 2**63 else None


def _chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file as JSON in UTF-8, without a byte order mark and without NaN and Infinity outside of texts.

    Raises:
        OvsegError: the file is of another format, or is not text.
    """
    with path.open("rb") as stream:
        head = stream.read(64)
        if other := _other_format(head):
            raise OvsegError(f"{path} is broken JSON: it is {other}")
        encoding = detect_encoding(head[:4]) or "utf-8"
        stream.seek(len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0)
        raw = iter(lambda: stream.read(CHUNK), b"")
        recoded = raw if encoding.startswith("utf-8") else _recode(raw, encoding, path)
        yield from recoded if _is_plain(path) else _quote_nan(recoded)


def _is_plain(path: Path) -> bool:
    """Whether a file is parsed as it is, but for its byte order mark: it is in UTF-8 and has no NaN."""
    with path.open("rb") as stream:
        encoding = detect_encoding(stream.read(4))
    status = path.stat()
    return encoding in (None, "utf-8-sig") and not _may_have_nan(path, status.st_size, status.st_mtime_ns)


def _recode(chunks: Iterator[bytes], encoding: str, path: Path) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        yield from filter(None, (decoder.decode(chunk).encode("utf-8", "replace") for chunk in chunks))
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        reason = not_text(error, error.object) if error.reason != "truncated data" else _cut_off(path.stat().st_size)
        raise OvsegError(f"{path} is broken JSON: {reason}") from None


@lru_cache(maxsize=16)
def _may_have_nan(path: Path, size: int, mtime_ns: int) -> bool:  # noqa: ARG001 - a file that changes is read again
    """Whether NaN or Infinity occurs in a place where JSON has a number; in rare cases also where it is part of a text."""
    if not size:
        return False
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for word in (b"NaN", b"Infinity"):
            position = data.find(word)
            while position >= 0:
                end = position + len(word)
                before, after = data[max(0, position - 64) : position], data[end : end + 64]
                if BEFORE_NUMBER.search(before) and AFTER_NUMBER.match(after):
                    return True
                position = data.find(word, position + 1)
    return False


def _quote_nan(chunks: Iterator[bytes]) -> Generator[bytes]:
    """Replace NaN and Infinity by texts that `_with_nan` knows, where they are not part of a text."""
    rest = b""
    for chunk in chunks:
        text, done, parts = rest + chunk, 0, []
        for match in TOKENS.finditer(text):
            token = match.group()
            if token == b'"':  # a text that ends in a later chunk
                rest = text[match.start() :]
                parts.append(text[done : match.start()])
                break
            parts.append(text[done : match.end()] if token[0] == ord('"') else text[done : match.start()])
            parts.append(b"" if token[0] == ord('"') else b'"' + MARK + token + b'"')
            done = match.end()
        else:
            cut = max(done, len(text) - LONGEST_TOKEN)
            parts.append(text[done:cut])
            rest = text[cut:]
        if any(parts):  # an empty chunk would end the parser
            yield b"".join(parts)
    if rest:
        yield rest


def _with_nan(value: Any) -> Any:
    """A parsed value with the numbers that `_quote_nan` has replaced."""
    if isinstance(value, str):
        return NUMBERS.get(value, value)
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return {key: _with_nan(item) for key, item in value.items()} if isinstance(value, dict) else value


def _other_format(head: bytes) -> str | None:
    """What a file is instead of JSON, by its first bytes; None if it may be JSON."""
    if not head.strip():
        return "empty"
    if not head.strip(b"\0") and len(head) > 4:
        return "all zero bytes, such as an unfinished download"
    return next((name for magic, name in OTHER_FORMATS if head.lstrip(b"\xef\xbb\xbf \r\n").startswith(magic)), None)


def _locate(path: Path, number: int, error: Exception, lines: bool) -> str:
    """What breaks a file, and where. The file is parsed once more up to its broken chunk, and that chunk byte by byte."""
    parser = ijson.basic_parse_coro(_IgnoreEvents(), multiple_values=lines)
    size, line, before, broken = 0, 1, b"", b""
    for i, chunk in enumerate(_chunks(path)):
        if i == number:
            broken = chunk
            break
        parser.send(chunk)
        size, line, before = size + len(chunk), line + chunk.count(b"\n"), chunk[-CONTEXT:]
    good = 0
    with contextlib.suppress(ijson.JSONError):
        for good in range(len(broken)):
            parser.send(broken[good : good + 1])
    with path.open("rb") as stream:
        head = stream.read(4)
        stream.seek(-1, os.SEEK_END)
        ends_in_zero = stream.read(1) == b"\0"
    if ends_in_zero and not broken[good:].strip(b"\0"):
        return f"(only zero bytes follow at its end): {_cut_off(size + good)}"
    bom = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    byte = f"byte {size + good + bom:,} in " if _is_plain(path) else ""
    line += broken.count(b"\n", 0, good)
    near = (before + broken[:good])[-CONTEXT:] + broken[good : good + CONTEXT // 2]
    near = re.sub(b'"%b([^"]*)"' % MARK, rb"\1", near)
    reason = re.sub(r"^.*?error: |\\n.*$|\n.*$", "", str(error), flags=re.DOTALL).rstrip(".")
    return f"({reason}): {byte}line {line}, near {near.decode('utf-8', 'replace')!r}"


class _IgnoreEvents:
    """A target of ijson that keeps no event."""

    def send(self, event: object) -> None:
        """Do nothing."""


def _cut_off(size: int) -> str:
    return f"it ends too early, after {size:,} bytes; the download may be cut off. Fetch it again"
