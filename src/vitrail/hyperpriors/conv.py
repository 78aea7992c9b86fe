"""The paper's hyperprior: five 5x5 convolutions each way, LeakyReLU (arXiv 2306.14287, plan of Contextformer)."""

from typing import cast

from torch import Tensor, nn

from vitrail import config
from vitrail.hyperpriors.base import Hyperprior


class ConvHyperprior(Hyperprior):
    """See the module's text; `width` is N, and there are 2M features."""

    def __init__(self, part: config.ConvHyperprior, latents: int) -> None:
        super().__init__()
        self.channels, self.features = part.width, 2 * latents
        n, m, k = part.width, latents, part.kernel

        def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
            return nn.Conv2d(inputs, outputs, k, stride, k // 2)

        def deconv(inputs: int, outputs: int) -> nn.Module:
            return nn.ConvTranspose2d(inputs, outputs, k, 2, k // 2, output_padding=1)

        self.encoder = nn.Sequential(
            conv(m, n),
            nn.LeakyReLU(),
            conv(n, n),
            nn.LeakyReLU(),
            conv(n, n, 2),
            nn.LeakyReLU(),
            conv(n, n),
            nn.LeakyReLU(),
            conv(n, n, 2),
        )
        self.decoder = nn.Sequential(
            conv(n, m),
            nn.LeakyReLU(),
            deconv(m, m),
            nn.LeakyReLU(),
            conv(m, m),
            nn.LeakyReLU(),
            deconv(m, 3 * m // 2),
            nn.LeakyReLU(),
            conv(3 * m // 2, 2 * m),
        )

    def analysis(self, y: Tensor) -> Tensor:
        """See `Hyperprior`."""
        return cast(Tensor, self.encoder(y))

    def synthesis(self, z_hat: Tensor) -> Tensor:
        """See `Hyperprior`."""
        return cast(Tensor, self.decoder(z_hat))
