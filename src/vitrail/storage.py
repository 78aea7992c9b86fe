"""Files that appear whole or not at all."""

import os
import secrets
from pathlib import Path

from vitrail.errors import UsageError


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all: beside its place, then moved there over what was there.

    Raises:
        UsageError: the folder or the disk refuses, or `path` is something other than a regular file.

    """
    place = Path(path).resolve()
    beside = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        if place.exists() and not place.is_file():
            raise UsageError(f"{path} is not a regular file; give another name")
        try:
            with beside.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(place)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
