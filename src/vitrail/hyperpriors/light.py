"""A small hyperprior of layers that have an exact integer form: 3x3 convolutions, 2x2 patches, leaky ReLU."""

from typing import cast

import torch
from torch import Tensor, nn

from vitrail import config
from vitrail.hyperpriors.base import Hyperprior
from vitrail.layers import Kit, ResidualBlock, leaky


class LightHyperprior(Hyperprior):
    """See the module's text."""

    def __init__(self, part: config.LightHyperprior, latents: int, kit: Kit) -> None:
        super().__init__()
        self.channels, self.features = part.width, part.features
        n, hidden = part.width, part.width if part.hidden is None else part.hidden
        self.encoder = nn.Sequential(
            nn.Conv2d(latents, hidden, 3, padding=1),
            leaky(),
            nn.Conv2d(hidden, hidden, 2, 2),
            ResidualBlock(hidden),
            nn.Conv2d(hidden, n, 2, 2),
        )
        head = kit.conv(n, part.features, 3)
        self.decoder = nn.Sequential(kit.up(n, n), ResidualBlock(n, kit), kit.up(n, n), leaky(), head)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter[:latents] = 0  # the mean of y

    def analysis(self, y: Tensor) -> Tensor:
        """See `Hyperprior`."""
        return cast(Tensor, self.encoder(y))

    def synthesis(self, z_hat: Tensor) -> Tensor:
        """See `Hyperprior`."""
        return cast(Tensor, self.decoder(z_hat))
