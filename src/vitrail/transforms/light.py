"""Light transforms: a linear 16x16 block transform with residual networks around it, each way.

The analysis network corrects the picture before the linear transform and the latents after it; the synthesis network
sees the latents and the picture that they give linearly. Without these two, what a network saw and gave went through
fewer features than there are latents, and high rates were left to the linear transform.

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

_PATCH = 4
# The usual size of what corrects a picture, in its range of 1: the optimizer's steps are of a size of their own.
_CORRECTION = 0.1


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

    def enter(self, index: int, x: Tensor, quality: Tensor) -> Tensor:
        """Return what the blocks of a stage are given."""
        return torch.relu(self.steps[index](x)) * self.scales[index](quality).exp()


class LightTransform(Transform):
    """See the module's text."""

    linear: LinearPath

    def __init__(self, part: config.LightTransform, latents: int) -> None:
        super().__init__()
        quarter, eighth, sixteenth = part.widths
        self.linear = LinearPath(latents)
        self.analysis_stages = _Stages(
            [
                nn.Conv2d(3, quarter, _PATCH, _PATCH),
                nn.Conv2d(quarter, eighth, 2, 2),
                nn.Conv2d(eighth, sixteenth, 2, 2),
            ],
            [quarter, eighth, sixteenth],
            list(part.blocks),
        )
        self.analysis_correction = nn.Conv2d(quarter, 3 * _PATCH**2, 1)
        self.analysis_direct = nn.Conv2d(eighth, latents, 2, 2)
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
        self.synthesis_direct = nn.ConvTranspose2d(latents, eighth, 2, 2)
        self.synthesis_view = nn.Conv2d(3 * _PATCH**2, quarter, 1)
        self.synthesis_head = nn.Conv2d(quarter, 3 * _PATCH**2, 3, padding=1)
        start_from_nothing(self.analysis_correction, self.analysis_direct, self.analysis_head)
        start_from_nothing(self.synthesis_direct, self.synthesis_view, self.synthesis_head)

    def analysis(self, x: Tensor, quality: Tensor) -> Tensor:
        """See `Transform`."""
        x, stages = x - 0.5, self.analysis_stages
        at_4 = stages.blocks[0](stages.enter(0, x, quality))
        x = x + _CORRECTION * functional.pixel_shuffle(self.analysis_correction(at_4), _PATCH)
        at_8 = stages.blocks[1](stages.enter(1, at_4, quality))
        at_16 = stages.blocks[2](stages.enter(2, at_8, quality))
        y = self.analysis_direct(at_8) + self.analysis_head(at_16)
        return self.linear.to_latent(x) + y * self.linear.spread

    def synthesis(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """See `Transform`."""
        y, stages = y_hat / self.linear.spread, self.synthesis_stages
        at_16 = stages.blocks[0](stages.enter(0, y, quality))
        at_8 = stages.blocks[1](stages.enter(1, at_16, quality) + self.synthesis_direct(y))
        x = self.linear.to_picture(y_hat)
        # Nothing else is held while the last blocks compute: they take the most memory.
        at_4 = stages.blocks[2](
            stages.enter(2, at_8, quality) + self.synthesis_view(functional.pixel_unshuffle(x, _PATCH))
        )
        return x + functional.pixel_shuffle(self.synthesis_head(at_4), _PATCH) + 0.5
