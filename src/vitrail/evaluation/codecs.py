"""The codecs that can be measured: Pillow's, and any Vitrail model, behind one small interface."""

import bisect
import functools
import hashlib
import importlib.metadata
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pillow_jxl  # noqa: F401  tells Pillow of JPEG XL
from PIL import Image, features

import vitrail
from vitrail import codec as vtl
from vitrail import picture
from vitrail.errors import UsageError
from vitrail.refinement import effort_plan


class Codec(Protocol):
    """What `sweep.evaluate` needs of a codec.

    Both methods give, beside the result, the seconds that entropy coding took of the call, or None where the
    codec cannot tell.
    """

    @property
    def name(self) -> str:
        """The name that reports and tables show."""

    @property
    def identity(self) -> str:
        """What its files and pictures follow from, beside the picture and the quality: code, settings, weights."""

    @property
    def lowest(self) -> int:
        """The lowest quality; the highest is 100."""

    @property
    def qualities(self) -> tuple[int, ...]:
        """The default sweep, ascending: about 0.1 to 2 bits per pixel on photographs."""

    def encode(self, image: Image.Image, quality: int) -> tuple[bytes, float | None]:
        """Turn an RGB picture into a whole file."""

    def decode(self, data: bytes) -> tuple[Image.Image, float | None]:
        """Turn a whole file into an RGB picture."""


@dataclass(frozen=True)
class PillowCodec:
    """One of Pillow's file formats, named by its name there in lower case; qualities run from 0 to 100."""

    name: str
    qualities: tuple[int, ...]
    options: Callable[[int], dict[str, Any]]
    """Maps a quality to the arguments of `Image.save`."""
    lowest: ClassVar[int] = 0

    @property
    def identity(self) -> str:
        """See `Codec`."""
        libraries = [features.version(each) for each in ("libjpeg_turbo", "jpg_2000", "webp", "avif")]
        packages = [importlib.metadata.version(each) for each in ("pillow", "pillow-jxl-plugin")]
        return f"{self.name} {libraries} {packages}"

    def encode(self, image: Image.Image, quality: int) -> tuple[bytes, None]:
        """Encode. Raises `UsageError` for a quality or a picture that the format does not take."""
        if not 0 <= quality <= 100:
            raise UsageError(f"quality {quality} is out of range: {self.name} takes 0 to 100")
        file = io.BytesIO()
        try:
            image.save(file, self.name.upper(), **self.options(quality))
        except (OSError, ValueError, RuntimeError) as error:  # such as a side above WebP's 16383 pixels
            raise UsageError(f"{self.name} cannot code {image.width} x {image.height} pixels ({error})") from error
        return file.getvalue(), None

    def decode(self, data: bytes) -> tuple[Image.Image, None]:
        """Decode."""
        return Image.open(io.BytesIO(data)).convert("RGB"), None


def _jpeg(quality: int) -> dict[str, Any]:
    return {"quality": quality, "progressive": True, "optimize": True, "subsampling": "4:2:0"}


def _jpeg2000(quality: int) -> dict[str, Any]:
    # OpenJPEG aims at a rate or a PSNR and knows no quality. A PSNR is nearer to one: it too spends more bits
    # on harder pictures. No boxes of .jp2 around the codestream: they would be 1 % of the smallest files.
    layers = [20 + quality / 4]  # dB
    return {"quality_mode": "dB", "quality_layers": layers, "irreversible": True, "mct": 1, "no_jp2": True}


def _webp(quality: int) -> dict[str, Any]:
    return {"quality": quality, "method": 6}


def _avif(quality: int) -> dict[str, Any]:
    # Tiles enlarge the file and the number of threads changes it: one of each, for the same bytes everywhere.
    return {"quality": quality, "speed": 6, "subsampling": "4:4:4", "max_threads": 1, "autotiling": False}


def _jxl(quality: int) -> dict[str, Any]:
    return {"quality": quality, "effort": 7, "num_threads": 1}


PEERS = {
    peer.name: peer
    for peer in (
        PillowCodec("jpeg", (5, 10, 20, 30, 45, 60, 75, 85), _jpeg),
        PillowCodec("jpeg2000", (20, 28, 36, 44, 52, 60, 68, 76), _jpeg2000),
        PillowCodec("webp", (0, 5, 15, 30, 50, 70, 80, 88), _webp),
        PillowCodec("avif", (10, 20, 30, 40, 50, 60, 70, 80), _avif),
        PillowCodec("jxl", (0, 10, 25, 40, 55, 70, 80, 88), _jxl),
    )
}
"""Pillow's lossy codecs, set for few bytes at a bearable time."""


class VitrailCodec:
    """A Vitrail model, loaded once; qualities run from 1 to 100."""

    lowest = 1
    qualities = (1, 10, 25, 40, 55, 70, 85, 100)

    def __init__(self, model: str, effort: int = 0) -> None:
        """Load a model by its name or path. Raises `ModelError` where there is none, `UsageError` for the effort."""
        self.name = f"{model}, effort {effort}" if effort else model
        self._plan = effort_plan(effort)
        self._model = vitrail.load_model(model)
        assert self._model.identity is not None  # it came from a file
        self.weights = self._model.identity.hex()
        self.identity = f"{self.weights} {effort} {_code()} {importlib.metadata.version('constriction')}"

    def encode(self, image: Image.Image, quality: int) -> tuple[bytes, float | None]:
        """Encode, reading the picture included. Raises `UsageError` for a quality out of range."""
        encoded = vtl.encode(picture.read(image), self._model, quality, self._plan)
        return encoded.data, encoded.coder_seconds

    def decode(self, data: bytes) -> tuple[Image.Image, float | None]:
        """Decode."""
        decoded = vtl.decode(data, self._model)
        return decoded.image, decoded.coder_seconds


@functools.cache
def _code() -> str:
    """Return a hash of all code that makes files and pictures."""
    found = hashlib.sha256()
    package = Path(vitrail.__file__).parent
    for file in sorted(package.rglob("*.py")):
        if file.relative_to(package).parts[0] not in ("cli", "evaluation", "training"):
            found.update(file.read_bytes())
    return found.hexdigest()


def nearest(codec: Codec, image: Image.Image, size: int) -> int:
    """Return the quality whose file comes nearest to `size` bytes."""

    @functools.cache
    def size_at(quality: int) -> int:
        return len(codec.encode(image, quality)[0])

    above = codec.lowest + bisect.bisect_left(range(codec.lowest, 101), size, key=size_at)
    return min(max(above - 1, codec.lowest), min(above, 100), key=lambda quality: abs(size_at(quality) - size))


def codec(name: str, effort: int = 0) -> Codec:
    """Give one of `PEERS`, or a Vitrail model by its name or path, with an effort 0..9 of the encoder.

    Raises `ModelError` if it is neither, `UsageError` for an effort of a codec that knows none.
    """
    if name not in PEERS:
        return VitrailCodec(name, effort)
    if effort:
        raise UsageError(f"{name} knows no effort; leave it away")
    return PEERS[name]
