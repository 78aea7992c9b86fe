"""A picture and a model <-> the bytes of a `.vtl` file."""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from vitrail import container, picture, rate, refinement, weights, zoo
from vitrail.coding import RangeDecoder, RangeEncoder
from vitrail.errors import FormatError, ModelError, UsageError
from vitrail.model import Latents, Model
from vitrail.picture import Picture, Pixels
from vitrail.refinement import Plan
from vitrail.threads import one_thread


class Encoded(NamedTuple):
    """A file's bytes, and the part of the time that the range coder took."""

    data: bytes
    coder_seconds: float


class Decoded(NamedTuple):
    """A picture, and the part of the time that the range coder took."""

    image: Image.Image
    coder_seconds: float


def encode(
    source: Picture,
    model: Model,
    quality: int,
    plan: Plan | None = None,
    advance: Callable[[float], bool] = lambda share: True,
) -> Encoded:
    """Compress a picture at a quality of 1..100. Raises `UsageError`.

    With a plan the latents are refined (see `refinement.refine`, also for `advance`), and what is larger for its
    quality than without is not taken.
    """
    if model.identity is None:
        raise UsageError("the model is not as loaded from a weights file; save it with vitrail.weights.save, load that")
    quality = rate.check(quality)
    height, width = source.pixels.shape[:2]
    x = torch.from_numpy(source.pixels).to(model.device).permute(2, 0, 1).unsqueeze(0).float() / 255
    latents = model.with_filter(x, model.latents(x, quality), quality)
    coded, seconds = _code(model, latents, (height, width), quality)
    if plan and plan.steps:
        refined = refinement.refine(model, x, quality, plan, latents, advance)
        refined = model.with_filter(x, refined, quality)
        again, more = _code(model, refined, (height, width), quality)
        seconds += more
        if _loss(source, model, refined, quality, again) < _loss(source, model, latents, quality, coded):
            latents, coded = refined, again
    file = container.VtlFile(
        model_id=model.identity,
        width=width,
        height=height,
        quality=quality,
        gray=source.gray,
        research=not model.config.exact,
        symbols_crc=checksum(latents),
        latents=coded,
        alpha=source.alpha,
        icc=source.icc,
        exif=source.exif,
        xmp=source.xmp,
    )
    return Encoded(container.write(file), seconds)


def _code(model: Model, latents: Latents, size: tuple[int, int], quality: int) -> tuple[bytes, float]:
    """Return the latents' string, and the range coder's seconds."""
    encoder = RangeEncoder()
    model.traverse(encoder, size, quality, latents)
    return encoder.finish(), encoder.seconds


def _loss(source: Picture, model: Model, latents: Latents, quality: int, coded: bytes) -> float:
    """Return bits per pixel + lambda MSE, of real bytes and samples of 0..255."""
    height, width = source.pixels.shape[:2]
    decoded = reconstruct(model, latents, (height, width), quality)
    mse = float(np.square(decoded.astype(np.float32) - source.pixels).mean())
    return 8 * len(coded) / (height * width) + model.multiplier(quality) * mse


def decode(data: bytes, model: Model | None = None) -> Decoded:
    """Decompress a file, by default with the shipped model that it names.

    Raises `FormatError` for damaged files, and `ModelError` when the file needs other weights.
    """
    file = container.read(data)
    if model is None:
        model = _model(file.model_id)
    if model.identity != file.model_id:
        given = model.identity.hex() if model.identity else "none"
        needed = zoo.describe(file.model_id)
        raise ModelError(f"the file needs the model with id {needed}; {model.config.name} has {given}")
    size = (file.height, file.width)
    if len(file.latents) < model.least_bytes(size):
        raise FormatError("the file is damaged: it is too short for a picture of its size")
    decoder = RangeDecoder(file.latents)
    latents = model.traverse(decoder, size, file.quality)
    if checksum(latents) != file.symbols_crc:
        told = "; its model is for research, and other machines may compute other numbers" if file.research else ""
        raise FormatError(f"the file is damaged: its symbols are not those that were written{told}")
    pixels = reconstruct(model, latents, size, file.quality)
    decoded = Picture(pixels, file.gray, file.alpha, file.icc, file.exif, file.xmp)
    return Decoded(picture.to_image(decoded), decoder.seconds)


def reconstruct(model: Model, latents: Latents, size: tuple[int, int], quality: int) -> Pixels:
    """Return the pixels (H, W, 3) uint8 that the latents stand for."""
    x_hat = model.reconstruct(latents._replace(filter=None), size, quality)
    with one_thread():
        x_hat = model.filtered(x_hat, latents.filter, quality)
    return (x_hat[0] * 255).round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


def checksum(latents: Latents) -> int:
    """Return the CRC-32 of z, then y, then the filter, as little-endian int16 in (channel, row, column) order."""
    found = 0
    for part in (latents.z, latents.y, latents.filter):
        found = found if part is None else zlib.crc32(part.astype("<i2").tobytes(), found)
    return found


def _model(model_id: bytes) -> Model:
    name = zoo.find(model_id)
    if name is None:
        remedy = "" if zoo.retired(model_id) else "; name its weights file (--model)"
        needed = zoo.describe(model_id)
        raise ModelError(f"the file needs the model with id {needed}, which this version does not ship{remedy}")
    return weights.shared(name)
