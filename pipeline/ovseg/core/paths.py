"""Paths as users write them: of this machine, or URLs of object storage (`s3://`, `gs://`, `memory://`), by fsspec.

`to_path` gives a `pathlib.Path` for this machine, and for a URL a `UPath` of universal-pathlib, which has the same methods.
Annotations say `Path` for both. Inputs and published outputs may be anywhere; unfinished work and models are on this machine.
What differs between the two is in `core.remote_files`.
"""

from __future__ import annotations

import re
from pathlib import Path

from ovseg.core.errors import OvsegError
from ovseg.core.files import expand_home

URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL | re.IGNORECASE)
THIS_MACHINE = ("file", "local")
PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "-e '.[s3]' in the clone"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
}
"""What to install for a protocol; fsspec itself has `memory`, `http` and others."""


def to_path(text: str | Path) -> Path:
    """Return the path that a text names.

    Args:
        text: a path of this machine, where `~` is the home folder; or a URL of a protocol that fsspec knows.

    Raises:
        OvsegError: the protocol is unknown, or the package that reads it is not installed.
    """
    match = URL.fullmatch(str(text))
    if isinstance(text, Path) or not match:
        return Path(expand_home(str(text)))
    protocol, place = match[1].lower(), match[2]
    if protocol in THIS_MACHINE:
        return Path(expand_home(place))
    try:
        import fsspec
        from upath import UPath

        fsspec.get_filesystem_class(protocol)
        # A listing is not kept, since others may write there.
        path: Path = UPath(f"{protocol}://{place}", use_listings_cache=False) if isinstance(text, str) else text
    except ImportError:
        package = PACKAGES.get(protocol, f"the package of fsspec for {protocol}")
        raise OvsegError(f"{text} needs a package that is not installed: pip install {package}") from None
    except ValueError:
        raise OvsegError(
            f"{text}: the protocol {protocol!r} is unknown; give a folder, or a URL of s3://, gs:// or another one of fsspec"
        ) from None
    return path


def is_url(value: object) -> bool:
    """Whether a text, or a path made by `to_path`, is a URL."""
    return URL.fullmatch(str(value)) is not None


def is_remote(path: Path) -> bool:
    """Whether a path made by `to_path` is in object storage, and not of this machine."""
    return not isinstance(path, Path)
