"""Vitrail: a learned image codec. Photographs in, small `.vtl` files out, and back.

>>> data = vitrail.compress("photo.png", quality=50)
>>> image = vitrail.decompress(data)

Importing the package is cheap; torch is imported by the first call that needs it.
"""

import warnings
from typing import TYPE_CHECKING

from vitrail.errors import FormatError, ModelError, PictureError, UsageError, VitrailError

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


def compress(image: "Source", quality: int = 50, model: "str | Model" = "econtextformer-s") -> bytes:
    """Return the `.vtl` file of a picture.

    `image`: a path, a file's bytes, a binary stream, a Pillow image of any mode, or a uint8 array (H, W), (H, W, 3) or
    (H, W, 4). `quality`: 1 to 100. `model`: a name (see `models`), a weights file, or a loaded model. What a file
    cannot keep is told by `warnings.warn`. Raises `VitrailError`.
    """
    from vitrail import codec, picture

    source = picture.read(image)
    for warning in source.warnings:
        warnings.warn(warning, stacklevel=2)
    return codec.encode(source, load_model(model) if isinstance(model, str) else model, quality).data


def decompress(data: bytes) -> "Image.Image":
    """Return a `.vtl` file's picture, with `icc_profile`, `exif` and `xmp` in its `info`. Raises `VitrailError`."""
    from vitrail import codec

    return codec.decode(data).image


def load_model(name: str = "econtextformer-s") -> "Model":
    """Return a model of the package by name, or of a weights file by path. Raises `ModelError`."""
    from vitrail import weights

    return weights.load(name)


def models() -> list[str]:
    """Return the names of the models in the package."""
    from vitrail import zoo

    return zoo.names()
