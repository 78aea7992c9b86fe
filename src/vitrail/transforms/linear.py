"""A linear 16x16 block transform to stand beside a network, so that the network only learns what it misses.

It starts as the principal components of photographs (training fits it) and keeps float32 under autocast, since it
carries what high rates need.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH = 16


class LinearPath(nn.Module):
    """Picture, less its middle gray, <-> latent, linearly and block by block.

    `spread` (M, 1, 1) is each channel's usual size: channels differ by factors of hundreds, and a network beside the
    path should see and give them in these units.
    """

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.analysis = nn.Conv2d(3, latents, PATCH, PATCH)
        self.synthesis = nn.ConvTranspose2d(latents, 3, PATCH, PATCH)
        self.register_buffer("spread", torch.ones(latents, 1, 1))
        self.spread: Tensor

    def fit(self, patches: Tensor) -> None:
        """Become the principal components of patches (N, 3, 16, 16) with values in 0..1."""
        flat = patches.flatten(1).double() - 0.5
        values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        latents = self.analysis.out_channels
        basis = vectors[:, -latents:].flip(1).T.reshape(latents, 3, PATCH, PATCH)
        with torch.no_grad():
            for layer in (self.analysis, self.synthesis):
                layer.weight.copy_(basis)
                assert layer.bias is not None
                layer.bias.zero_()
            # Not less than about the finest step of quantisation.
            self.spread.copy_((values[-latents:].flip(0) + 0.01).sqrt()[:, None, None])

    def to_latent(self, x: Tensor) -> Tensor:
        """Map x (B, 3, H, W) in -0.5..0.5 to (B, M, H/16, W/16)."""
        with torch.autocast(x.device.type, enabled=False):
            return self.analysis(x.float())

    def to_picture(self, y_hat: Tensor) -> Tensor:
        """Map y_hat (B, M, h, w) to (B, 3, 16 h, 16 w)."""
        # A transposed convolution into three channels is slow; as a matrix product and a shuffle it is not.
        weight = self.synthesis.weight.flatten(1).T[:, :, None, None]
        assert self.synthesis.bias is not None
        with torch.autocast(y_hat.device.type, enabled=False):
            picture = functional.pixel_shuffle(functional.conv2d(y_hat.float(), weight), PATCH)
        return picture + self.synthesis.bias[:, None, None]


def start_from_nothing(*heads: nn.Module) -> None:
    """Set the last layers of the networks beside a linear path to zero."""
    for head in heads:
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
