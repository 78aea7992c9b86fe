"""Light transforms: a linear 16x16 block transform with a residual network beside it, each way.

All convolutions are dense 3x3, or patches without overlap: what a CPU runs at full speed. Hidden features are scaled
by quality, since one network serves all rates.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrail import config
from vitrail.layers import ResidualBlock
from vitrail.rate import QualityTable
from vitrail.transforms.base import Transform
from vitrail.transforms.linear import LinearPath, start_from_nothing


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
        self.linear = LinearPath(latents)
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
            list((part.synthesis_blocks or part.blocks)[::-1]),
        )
        self.synthesis_head = nn.Conv2d(quarter, 3 * 16, 3, padding=1)
        start_from_nothing(self.analysis_head, self.synthesis_head)

    def network_analysis(self, x: Tensor, quality: Tensor) -> Tensor:
        """See `Transform`."""
        y: Tensor = self.analysis_head(self.analysis_stages(x, quality))
        return y

    def network_synthesis(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """See `Transform`."""
        return functional.pixel_shuffle(self.synthesis_head(self.synthesis_stages(y_hat, quality)), 4)
