"""Validation points during training: estimated rates and PSNR of whole pictures, at a few qualities."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitrail import picture
from vitrail.errors import UsageError
from vitrail.model import Model
from vitrail.precision import autocast
from vitrail.training.loss import rate_distortion

QUALITIES = (5, 25, 50, 75, 95)
_SIDE = 384
_PICTURES = 12


class Point(NamedTuple):
    """Means over the pictures: bits per pixel (estimated), PSNR in dB, and the loss of training."""

    quality: int
    bpp: float
    psnr: float
    loss: float


def pictures(folder: Path) -> list[Tensor]:
    """Return the 384 x 384 centres (1, 3, 384, 384) in 0..1 of the first twelve pictures of a folder."""
    suffixes = Image.registered_extensions()
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)[:_PICTURES]
    if not files:
        raise UsageError(f"{folder} holds no pictures to validate on")
    centres = []
    for file in files:
        pixels = picture.read(file).pixels
        top, left = (max(0, (side - _SIDE) // 2) for side in pixels.shape[:2])
        centre = torch.from_numpy(pixels[top : top + _SIDE, left : left + _SIDE])
        centres.append(centre.permute(2, 0, 1).unsqueeze(0).float() / 255)
    return centres


@torch.no_grad()
def measure(model: Model, centres: list[Tensor]) -> tuple[list[Point], np.ndarray[Any, np.dtype[np.uint8]]]:
    """Return a point for each of `QUALITIES`, and the first picture at all of them, side by side (H, W, 3)."""
    training = model.training
    model.eval()
    device = model.device
    points, shown = [], []
    for quality in QUALITIES:
        values = []
        for x in centres:
            with autocast(device):
                output = model(x.to(device), float(quality))
            pixels = x.shape[2] * x.shape[3]
            bpp = float(output.y_bits.sum() + output.z_bits.sum()) / pixels
            decoded = (output.x_hat.float().clamp(0, 1) * 255).round().cpu()
            mse = float((decoded / 255 - x).square().mean())
            values.append(
                (bpp, -10 * math.log10(max(mse, 1e-10)), float(rate_distortion(model, torch.tensor(quality), bpp, mse)))
            )
            if x is centres[0]:
                shown.append(decoded[0].byte().permute(1, 2, 0).numpy())
        points.append(Point(quality, *np.mean(values, 0).tolist()))
    model.train(training)
    return points, np.concatenate(shown, 1)
