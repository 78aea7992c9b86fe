"""Measurements that were made before, of the same codec, pixels and quality on the same sort of machine."""

import functools
import hashlib
import importlib.metadata
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail.evaluation.codecs import Codec
from vitrail.evaluation.sweep import Measurement, machine, measure
from vitrail.storage import write_file


def digest(image: Image.Image) -> str:
    """Return a hash of a picture's pixels."""
    return hashlib.sha256(str(image.size).encode() + np.asarray(image).tobytes()).hexdigest()


@functools.cache
def _measuring() -> str:
    """Return a hash of the code that measures."""
    found = hashlib.sha256(importlib.metadata.version("pytorch-msssim").encode())
    for name in ("codecs", "metrics", "sweep"):
        found.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return found.hexdigest()


class Cache:
    """A folder of measurements, one a file, each named by a hash of all that it follows from."""

    def __init__(self, folder: Path) -> None:
        """Use an existing folder."""
        self._folder = folder
        self._warm: set[str] = set()

    def measure(self, codec: Codec, file: str, image: Image.Image, quality: int) -> Measurement:
        """Return what `sweep.measure` does, or did; what cannot be read is measured again."""
        parts = [codec.identity, _measuring(), machine(), digest(image), quality]
        place = self._folder / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.json"
        try:
            return replace(Measurement(**json.loads(place.read_text())), file=file)
        except (OSError, ValueError, TypeError):
            pass
        if codec.identity not in self._warm:  # a first call loads and allocates, too
            codec.decode(codec.encode(image, quality)[0])
            self._warm.add(codec.identity)
        measured = measure(codec, file, image, quality)[0]
        write_file(place, json.dumps(asdict(measured)).encode())
        return measured
