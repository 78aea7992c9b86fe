"""What a model computes: multiply-accumulates, counted by PyTorch's own counter while a picture is coded."""

from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitrail.coding import RangeDecoder, RangeEncoder
from vitrail.config import ModelConfig
from vitrail.model import Model

SIZE = (512, 768)
"""Rows and columns of the picture that is counted: that of Kodak's."""


class Cost(NamedTuple):
    """Thousands of multiply-accumulates a pixel of `SIZE`."""

    encode: float
    decode: float


@torch.no_grad()
def count(config: ModelConfig, quality: int = 50) -> Cost:
    """Count what coding and decoding a smooth picture takes; neither weights nor content matter."""
    model = Model(config).requires_grad_(False).eval()  # the counter's hooks look for gradients
    model.freeze()
    height, width = SIZE
    x = torch.linspace(0, 1, width).expand(1, 3, height, width)
    # Fused attention on a CPU is not counted; written out it is.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as encoding:
        encoder = RangeEncoder()
        model.traverse(encoder, SIZE, quality, model.latents(x, quality))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as decoding:
        model.reconstruct(model.traverse(RangeDecoder(encoder.finish()), SIZE, quality), SIZE, quality)
    return Cost(*(each.get_total_flops() / 2 / 1000 / (height * width) for each in (encoding, decoding)))
