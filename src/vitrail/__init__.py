"""Vitrail: a learned image codec. Photographs in, small `.vtl` files out, and back.

>>> data = vitrail.compress("photo.png", quality=50)
>>> image = vitrail.decompress(data)

Importing the package is cheap; torch is imported by the first call that needs it.
"""

import os
import warnings
from typing import TYPE_CHECKING

from vitrail.errors import FormatError, ModelError, PictureError, UsageError, VitrailError
from vitrail.zoo import DEFAULT

if TYPE_CHECKING:
    from PIL import Image

    from vitrail.model import Model
    from vitrail.picture import Source

__all__ = [
    "FormatError",
    "ModelError",
    "PictureError",
    "UsageError",
    "VitrailError",
    "compress",
    "decompress",
    "load_model",
    "models",
]


def compress(
    image: "Source", quality: int = 50, model: "str | os.PathLike[str] | Model" = DEFAULT, effort: int = 0
) -> bytes:
    """Return the `.vtl` file of a picture.

    `image`: a path, a file's bytes, a binary stream, a Pillow image of any mode, or a uint8 array (H, W), (H, W, 3) or
    (H, W, 4). `quality`: 1 to 100. `model`: a name (see `models`), a weights file, or a loaded model. `effort`: 0 to 9;
    above 0, time is spent on a smaller file. What a file cannot keep is told by `warnings.warn`. Raises `VitrailError`.
    """
    from vitrail import codec, picture, refinement, weights
    from vitrail.model import Model

    if not isinstance(model, str | os.PathLike | Model):
        raise UsageError(f"a model is a name, a path or a loaded model, not {type(model).__name__}")
    source = picture.read(image)
    for warning in source.warnings:
        warnings.warn(warning, stacklevel=2)
    loaded = model if isinstance(model, Model) else weights.shared(os.fspath(model))
    return codec.encode(source, loaded, quality, refinement.effort_plan(effort)).data


def decompress(data: bytes) -> "Image.Image":
    """Return a `.vtl` file's picture, with `icc_profile`, `exif` and `xmp` in its `info`. Raises `VitrailError`."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise UsageError(f"a .vtl file's bytes are wanted, not {type(data).__name__}; read the file first")
    from vitrail import codec

    return codec.decode(bytes(data)).image


def load_model(name: str | os.PathLike[str] = DEFAULT) -> "Model":
    """Return a model of the package by name, or of a weights file by path. Raises `VitrailError`."""
    if not isinstance(name, str | os.PathLike):
        raise UsageError(f"a model's name or path is wanted, not {type(name).__name__}")
    from vitrail import weights

    return weights.load(name)


def models() -> list[str]:
    """Return the names of the models in the package."""
    from vitrail import zoo

    return zoo.names()
