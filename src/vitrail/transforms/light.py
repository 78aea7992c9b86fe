"""Light transforms: a linear 16x16 block transform with a residual network beside it, each way.

The linear paths start as the principal components of photographs (training fits them), so that the networks only
learn what a fixed transform misses; they keep float32 under autocast, since they carry what high rates need. All
convolutions are dense 3x3, or patches without overlap: what a CPU runs at full speed. Hidden features are scaled by
quality, since one network serves all rates.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrail import config
from vitrail.layers import ResidualBlock
from vitrail.rate import QualityTable
from vitrail.transforms.base import Transform

PATCH = 16


class _Stages(nn.Module):
    """Stages of residual blocks with a change of scale before each, features scaled by quality in between."""

    def __init__(self, steps: list[nn.Module], widths: list[int], blocks: list[int]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.scales = nn.ModuleList(QualityTable(width) for width in widths)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(count)))
            for width, count in zip(widths, blocks, strict=True)
        )

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        for step, scale, blocks in zip(self.steps, self.scales, self.blocks, strict=True):
            x = blocks(torch.relu(step(x)) * scale(quality).exp())
        return x


class LightTransform(Transform):
    """See the module's text."""

    def __init__(self, part: config.LightTransform, latents: int) -> None:
        super().__init__()
        quarter, eighth, sixteenth = part.widths
        self.linear_analysis = nn.Conv2d(3, latents, PATCH, PATCH)
        self.linear_synthesis = nn.ConvTranspose2d(latents, 3, PATCH, PATCH)
        # Channels differ by factors of hundreds: the networks see and give them in units of their usual spread.
        self.register_buffer("spread", torch.ones(latents, 1, 1))
        self.spread: Tensor
        self.analysis_stages = _Stages(
            [
                nn.Conv2d(3, quarter, 4, 4),
                nn.Conv2d(quarter, eighth, 2, 2),
                nn.Conv2d(eighth, sixteenth, 2, 2),
            ],
            [quarter, eighth, sixteenth],
            list(part.blocks),
        )
        self.analysis_head = nn.Conv2d(sixteenth, latents, 1)
        self.synthesis_stages = _Stages(
            [
                nn.Conv2d(latents, sixteenth, 1),
                nn.ConvTranspose2d(sixteenth, eighth, 2, 2),
                nn.ConvTranspose2d(eighth, quarter, 2, 2),
            ],
            [sixteenth, eighth, quarter],
            list(part.blocks[::-1]),
        )
        self.synthesis_head = nn.Conv2d(quarter, 3 * 16, 3, padding=1)
        for head in (self.analysis_head, self.synthesis_head):
            for parameter in head.parameters():
                nn.init.zeros_(parameter)

    def fit_linear(self, patches: Tensor) -> None:
        """Set the linear paths to the principal components of patches (N, 3, 16, 16) with values in 0..1."""
        flat = patches.flatten(1).double() - 0.5
        values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        latents = self.linear_analysis.out_channels
        basis = vectors[:, -latents:].flip(1).T.reshape(latents, 3, PATCH, PATCH)
        with torch.no_grad():
            for layer in (self.linear_analysis, self.linear_synthesis):
                layer.weight.copy_(basis)
                assert layer.bias is not None
                layer.bias.zero_()
            self.spread.copy_((values[-latents:].flip(0) + 0.01).sqrt()[:, None, None])

    def analysis(self, x: Tensor, quality: Tensor) -> Tensor:
        """See `Transform`."""
        x = x - 0.5
        y: Tensor = self.analysis_head(self.analysis_stages(x, quality))
        with torch.autocast(x.device.type, enabled=False):
            linear: Tensor = self.linear_analysis(x.float())
        return linear + y * self.spread

    def synthesis(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """See `Transform`."""
        x = functional.pixel_shuffle(self.synthesis_head(self.synthesis_stages(y_hat / self.spread, quality)), 4)
        # A transposed convolution into three channels is slow; as a matrix product and a shuffle it is not.
        weight = self.linear_synthesis.weight.flatten(1).T[:, :, None, None]
        with torch.autocast(x.device.type, enabled=False):
            linear = functional.pixel_shuffle(functional.conv2d(y_hat.float(), weight), PATCH)
        assert self.linear_synthesis.bias is not None
        return linear + x + (self.linear_synthesis.bias + 0.5)[:, None, None]
