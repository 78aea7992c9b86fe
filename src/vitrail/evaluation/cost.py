"""What a model computes: multiply-accumulates, counted by PyTorch's own counter, part by part."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitrail.config import ModelConfig
from vitrail.model import HYPER_STRIDE, STRIDE, Model

SIZE = (512, 768)
"""Rows and columns of the pictures that are counted by default: those of Kodak."""


class Cost(NamedTuple):
    """Thousands of multiply-accumulates a pixel; attention is counted, elementwise work is not."""

    analysis: float
    hyper_analysis: float
    hyper_synthesis: float
    hyper_synthesis_encode: float
    """Twice the former if the model is not exact: once for the mean, and once more as the decoder does it."""
    context_encode: float
    """With the parameter networks, as `context_decode`: one masked pass of exact models without a trellis."""
    context_decode: float
    synthesis: float
    post_filter: float
    post_filter_encode: float
    """To fit the picture's own filter, once the weights know its directions: the synthesis, and products of samples."""

    @property
    def encode(self) -> float:
        """All that an encoder runs."""
        networks = self.analysis + self.hyper_analysis + self.hyper_synthesis_encode + self.context_encode
        return networks + self.post_filter_encode

    @property
    def decode(self) -> float:
        """All that a decoder runs."""
        return self.hyper_synthesis + self.context_decode + self.synthesis + self.post_filter


@torch.no_grad()
def count(config: ModelConfig, size: tuple[int, int] = SIZE) -> Cost:
    """Count for a picture of `size`, whose sides are multiples of 64; neither weights nor content matter."""
    # Of float layers, which multiply as often; the counter's hooks look for gradients.
    model = Model(replace(config, exact=False)).requires_grad_(False).eval()
    height, width = size
    quality = torch.full((1,), 50.0)
    x = torch.zeros(1, 3, height, width)
    y = torch.zeros(1, config.latents, height // STRIDE, width // STRIDE)
    z = torch.zeros(1, model.hyperprior.channels, *(side // HYPER_STRIDE for side in y.shape[2:]))
    features = torch.zeros(1, model.hyperprior.features, *y.shape[2:])
    # Of a context model the shapes alone are followed: a serial one takes thousands of steps.
    context, symbols, known = model.context.to("meta"), y.to("meta"), features.to("meta")
    pixels = height * width
    passes = config.exact and not config.trellis
    stepwise = _counted(lambda: context.stepwise(symbols, known), pixels)
    hyper_synthesis = _counted(lambda: model.hyperprior.synthesis(z), pixels)
    synthesis = _counted(lambda: model.transform.synthesis(y, quality), pixels)
    post_filter = fit = 0.0
    if (own := model.post_filter) is not None:
        post_filter = _counted(lambda: own(x, np.zeros(config.post_filters, np.int32), 1.0), pixels)
        fit = _counted(lambda: own.loss(x, x, 1.0), pixels) + synthesis
    return Cost(
        analysis=_counted(lambda: model.transform.analysis(x, quality), pixels),
        hyper_analysis=_counted(lambda: model.hyperprior.analysis(y), pixels),
        hyper_synthesis=hyper_synthesis,
        hyper_synthesis_encode=hyper_synthesis * (1 if config.exact else 2),
        context_encode=_counted(lambda: context(symbols, known), pixels) if passes else stepwise,
        context_decode=stepwise,
        synthesis=synthesis,
        post_filter=post_filter,
        post_filter_encode=fit,
    )


def _added_in_place(total: torch.Size, a: torch.Size, b: torch.Size, **rest: object) -> int:
    """Count the operations of addmm_, of which PyTorch's counter knows only the other form."""
    return 2 * a[0] * a[1] * b[1]


def _counted(call: Callable[[], object], pixels: int) -> float:
    # Fused attention on a CPU is not counted; written out it is.
    own = {torch.ops.aten.addmm_: _added_in_place}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=own) as counter:
        call()
    return counter.get_total_flops() / 2000 / pixels
