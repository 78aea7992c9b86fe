"""What training is told of its model: estimated rates and PSNR of whole pictures at a few qualities, idle units."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

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


class SilentUnits:
    """Counts hidden units that are hardly ever positive in what a model computes meanwhile: a context manager.

    A residual block whose units are all silent adds a constant, or is linear, which no loss tells (docs/training.md,
    "Dead layers").
    """

    _HARDLY = 0.01  # of the positions

    def __init__(self, model: nn.Module) -> None:
        self._layers = [layer for layer in model.modules() if isinstance(layer, nn.ReLU | nn.LeakyReLU)]
        self._seen: dict[tuple[int, int], list[Tensor]] = defaultdict(list)

    def __enter__(self) -> "SilentUnits":
        self._hooks = [layer.register_forward_hook(self._look) for layer in self._layers]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _look(self, layer: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        # Of convolutions (B, C, H, W), else (..., C). One activation may serve stages of several widths.
        units = (result if result.dim() != 4 else result.movedim(1, -1)).detach().flatten(0, -2)
        self._seen[id(layer), units.shape[1]].append((units > 0).float().mean(0))

    def share(self) -> float:
        """Return the share of silent units, 0..1; 0 if nothing was computed."""
        means = [torch.stack(seen).mean(0) for seen in self._seen.values()]
        return float((torch.cat(means) < self._HARDLY).float().mean()) if means else 0.0


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
