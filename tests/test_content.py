"""Pictures that are no photographs: a model may do badly on them, but must not fall apart."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

import vitrail
from vitrail import zoo
from vitrail.layers import ResidualBlock

WIDTH, HEIGHT = 192, 128
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]


def text() -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    for line in range(9):
        words = "Sphinx of black quartz, judge my vow 0123456789"[3 * line :]
        draw.text((4, 2 + 14 * line), words, "black" if line % 3 else "#b00000", font)
    return image


def screen() -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), "#f3f3f3")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, WIDTH, 15), "#2b579a")
    draw.rectangle((8, 24, 90, 60), "white", "#888")
    draw.rectangle((100, 24, 184, 60), "#ffd24d", "black")
    for line in range(6):
        draw.line((8, 70 + 8 * line, 184, 70 + 8 * line), "#00a000" if line % 2 else "#d00000")
    draw.text((12, 30), "Open\nSave", "black")
    return image


def one_colour() -> Image.Image:
    return Image.new("RGB", (WIDTH, HEIGHT), (255, 0, 128))


def flat_graphics() -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), "black")
    ImageDraw.Draw(image).ellipse((30, 10, 160, 120), (0, 255, 255))
    return image


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))


def checkers() -> Image.Image:
    return Image.fromarray((255 * ((ROWS + COLUMNS) % 2)).astype(np.uint8)).convert("RGB")


def gratings() -> Image.Image:
    planes = [127.5 + 127.5 * np.sin(COLUMNS * (0.3 + 0.2 * k) + ROWS * 0.15 * k) for k in range(3)]
    return Image.fromarray(np.stack(planes, 2).astype(np.uint8))


@pytest.mark.parametrize("name", zoo.names())
@pytest.mark.parametrize("draw", [text, screen, one_colour, flat_graphics, noise, checkers, gratings])
def test_rate_and_error_stay_sane(name: str, draw: Callable[[], Image.Image]) -> None:
    image = draw()
    pixels = np.asarray(image, np.float64)
    of_mean_colour = np.square(pixels - pixels.mean((0, 1))).mean()
    sizes, errors = [], []
    for quality in (10, 50, 95):
        data = vitrail.compress(image, quality, name)
        sizes.append(len(data))
        errors.append(np.square(pixels - np.asarray(vitrail.decompress(data), np.float64)).mean())
    assert sizes == sorted(sizes)
    assert sizes[-1] < pixels.size / 3  # photographs take a twelfth
    assert errors[2] <= errors[1] <= errors[0]
    assert errors[0] < 1.05 * of_mean_colour + 65  # 65: 30 dB; photographs have 25 at quality 10


@pytest.mark.parametrize("name", ["econtextformer-m", "econtextformer-s"])
def test_no_block_of_shipped_weights_is_idle(name: str, photo: Image.Image) -> None:
    model = vitrail.load_model(name).in_floats()
    x = torch.from_numpy(np.array(photo.crop((256, 128, 512, 384)))).permute(2, 0, 1)[None] / 255
    spreads: list[float] = []
    for block in model.modules():
        if isinstance(block, ResidualBlock):
            block.conv2.register_forward_hook(lambda layer, given, y: spreads.append(float(y.std((0, 2, 3)).max())))
    with torch.no_grad():
        model(x, 50)
    assert spreads
    assert min(spreads) > 1e-3  # else it adds the same everywhere: all its hidden units are dead
