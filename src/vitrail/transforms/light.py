"""Light transforms: residual networks around a linear 16x16 block transform, each way (see `around`).

All convolutions are dense 3x3, or patches without overlap: what a CPU runs at full speed. Hidden features are scaled
by quality, since one network serves all rates.
"""

from torch import Tensor, nn
from torch.nn import functional

from vitrail import config
from vitrail.layers import ResidualBlock, leaky
from vitrail.rate import QualityTable
from vitrail.transforms.around import AroundLinear
from vitrail.transforms.linear import start_from_nothing

_PATCH = 4


class _Stages(nn.Module):
    """Stages of residual blocks with a change of scale before each, features scaled by quality in between."""

    def __init__(self, steps: list[nn.Module], widths: list[int], blocks: list[int]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.activation = leaky()
        self.scales = nn.ModuleList(QualityTable(width) for width in widths)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(count)))
            for width, count in zip(widths, blocks, strict=True)
        )

    def begin(self, index: int, x: Tensor, quality: Tensor) -> Tensor:
        """Change the scale."""
        return self.activation(self.steps[index](x)) * self.scales[index](quality).exp()

    def finish(self, index: int, x: Tensor) -> Tensor:
        """Do the blocks."""
        return self.blocks[index](x)


class LightTransform(AroundLinear):
    """See the module's text."""

    def __init__(self, part: config.LightTransform, latents: int) -> None:
        super().__init__()
        quarter, eighth, sixteenth = part.widths
        self.surround(latents, quarter, eighth)
        self.analysis_stages = _Stages(
            [
                nn.Conv2d(3, quarter, _PATCH, _PATCH),
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
        self.synthesis_head = nn.Conv2d(quarter, 3 * _PATCH**2, 3, padding=1)
        start_from_nothing(self.analysis_head, self.synthesis_head)

    def down(self, index: int, x: Tensor, quality: Tensor) -> Tensor:
        """See `AroundLinear`."""
        return self.analysis_stages.finish(index, self.analysis_stages.begin(index, x, quality))

    def to_latent(self, x: Tensor) -> Tensor:
        """See `AroundLinear`."""
        return self.analysis_head(x)

    def up(self, index: int, x: Tensor, quality: Tensor) -> Tensor:
        """See `AroundLinear`."""
        return self.synthesis_stages.begin(index, x, quality)

    def finish(self, index: int, x: Tensor, quality: Tensor) -> Tensor:
        """See `AroundLinear`."""
        return self.synthesis_stages.finish(index, x)

    def to_picture(self, x: Tensor) -> Tensor:
        """See `AroundLinear`."""
        return functional.pixel_shuffle(self.synthesis_head(x), _PATCH)
