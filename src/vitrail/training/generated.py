"""Generated pictures for training: text, screens, flat graphics, gratings and noise, which photographs do not teach.

A picture is a background with a few things drawn on it, all at random; edges are not smoothed but for those of text,
as on a screen.
"""

import string
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Random = np.random.Generator
_LETTERS = np.array(list(string.ascii_letters + string.digits + string.punctuation))


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _colour(random: Random) -> tuple[int, ...]:
    """Return black, white, a gray or any colour: screens are mostly the former."""
    kind = random.random()
    if kind < 0.25:
        return (0, 0, 0)
    if kind < 0.5:
        return (255, 255, 255)
    if kind < 0.7:
        return (int(random.integers(256)),) * 3
    return tuple(random.integers(256, size=3).tolist())


def _box(random: Random, side: int) -> tuple[int, int, int, int]:
    left, top = random.integers(-side // 4, side, 2)
    width, height = (side ** random.uniform(0.3, 1.05, 2)).astype(int)
    return int(left), int(top), int(left + width), int(top + height)


def _outline(random: Random) -> tuple[int, ...] | None:
    return _colour(random) if random.random() < 0.4 else None


def _text(draw: ImageDraw.ImageDraw, random: Random, side: int) -> None:
    size = int(random.choice([9, 10, 11, 12, 13, 14, 16, 20, 28, 40]))
    left, top, _, bottom = _box(random, side)
    colour, gap = _colour(random), int(size * random.uniform(1.1, 1.8))
    for line in range(top, max(bottom, top + 1), gap):
        words = ("".join(random.choice(_LETTERS, int(random.integers(1, 10)))) for _ in range(8))
        draw.text((left, line), " ".join(words), colour, _font(size))


def _rectangle(draw: ImageDraw.ImageDraw, random: Random, side: int) -> None:
    draw.rectangle(_box(random, side), _colour(random), _outline(random), int(random.integers(1, 4)))


def _ellipse(draw: ImageDraw.ImageDraw, random: Random, side: int) -> None:
    draw.ellipse(_box(random, side), _colour(random), _outline(random), int(random.integers(1, 4)))


def _lines(draw: ImageDraw.ImageDraw, random: Random, side: int) -> None:
    colour, width = _colour(random), int(random.integers(1, 4))
    steps = random.integers(-side // 4, side // 4, 2)
    start, end = random.integers(0, side, (2, 2))
    for index in range(int(random.integers(1, 12))):
        draw.line([*(start + index * steps).tolist(), *(end + index * steps).tolist()], colour, width)


_THINGS: tuple[Callable[[ImageDraw.ImageDraw, Random, int], None], ...] = (_text, _text, _rectangle, _ellipse, _lines)


def _background(random: Random, side: int) -> Image.Image:
    kind = random.random()
    if kind < 0.7:
        return Image.new("RGB", (side, side), _colour(random))
    if kind < 0.95:  # between two colours: a grating or, when it is slow, a gradient; or checkers
        rows, columns = np.mgrid[:side, :side]
        if kind < 0.9:
            across, along = random.choice([-1, 1], 2) * 10 ** random.uniform(-2.5, 0.5, 2)
            wave = (0.5 + 0.5 * np.sin(across * columns + along * rows))[..., None]
            if random.random() < 0.3:
                wave = wave.round()
        else:
            size = int(random.integers(1, 9))
            wave = ((rows // size + columns // size) % 2)[..., None]
        first, second = (np.array(_colour(random)) for _ in range(2))
        return Image.fromarray((first + (second - first) * wave).astype(np.uint8))
    noise = random.normal(128, random.uniform(5, 80), (side, side, int(random.choice([1, 3]))))
    return Image.fromarray(np.broadcast_to(noise, (side, side, 3)).clip(0, 255).astype(np.uint8))


def picture(random: Random, side: int) -> Image.Image:
    """Return a picture of side x side pixels."""
    image = _background(random, side)
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(0, 8))):
        _THINGS[random.integers(len(_THINGS))](draw, random, side)
    return image


def crops(random: Random, count: int, side: int) -> Tensor:
    """Return `count` pictures (count, 3, side, side) in 0..1."""
    pixels = np.stack([np.asarray(picture(random, side)) for _ in range(count)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
