"""The paper's transforms: four strided 3x3 convolutions each way, GDN between, one residual attention module.

eContextformer (arXiv 2306.14287) takes them from Cui et al. (CVPR 2021); where the text is silent the layer plan
follows CompressAI's attention models. The attention module stands at 1/8 of the picture's size.
"""

from typing import cast

import torch
from torch import Tensor, nn

from vitrail import config
from vitrail.transforms.base import Transform


class GDN(nn.Module):
    """Generalised divisive normalisation (Ballé et al., ICLR 2016): x / sqrt(beta + gamma x^2), or its inverse."""

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(0.1 * torch.eye(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        # Absolute values keep both parameters positive without a projection step.
        gamma = self.gamma.abs()[:, :, None, None]
        energy = nn.functional.conv2d(x * x, gamma, self.beta.abs() + 1e-6)
        return x * (energy.sqrt() if self.inverse else energy.rsqrt())


class _Bottleneck(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            nn.Conv2d(channels, half, 1),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(half, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return torch.relu(x + y)


class AttentionModule(nn.Module):
    """Residual attention (Cheng et al., CVPR 2020), without the non-local part: x + trunk(x) * sigmoid(mask(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(_Bottleneck(channels) for _ in range(3)))
        self.mask = nn.Sequential(*(_Bottleneck(channels) for _ in range(3)), nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return x + cast(Tensor, self.trunk(x)) * torch.sigmoid(self.mask(x))


def _down(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, 2, 1)


def _up(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1)


class ConvTransform(Transform):
    """See the module's text; `width` is the paper's N. Quality acts through the latents' gains alone."""

    def __init__(self, part: config.ConvTransform, latents: int) -> None:
        super().__init__()
        self.linear = None
        n = part.width
        self.encoder = nn.Sequential(
            _down(3, n),
            GDN(n),
            _down(n, n),
            GDN(n),
            _down(n, n),
            GDN(n),
            AttentionModule(n),
            _down(n, latents),
        )
        self.decoder = nn.Sequential(
            _up(latents, n),
            AttentionModule(n),
            GDN(n, inverse=True),
            _up(n, n),
            GDN(n, inverse=True),
            _up(n, n),
            GDN(n, inverse=True),
            _up(n, 3),
        )

    def analysis(self, x: Tensor, quality: Tensor) -> Tensor:
        """See `Transform`."""
        return cast(Tensor, self.encoder(x - 0.5))

    def synthesis(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """See `Transform`."""
        return cast(Tensor, self.decoder(y_hat)) + 0.5
