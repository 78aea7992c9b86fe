"""Networks around a linear 16x16 block transform, each way.

The analysis network corrects the picture before the linear transform and the latents after it; the synthesis network
sees the latents and the picture that they give linearly. Without these two, what a network saw and gave went through
fewer features than there are latents, and high rates were left to the linear transform.
"""

from abc import abstractmethod

from torch import Tensor, nn
from torch.nn import functional

from vitrail.layers import add
from vitrail.transforms.base import Transform
from vitrail.transforms.linear import LinearPath, start_from_nothing

# Pixels a side of what a feature at 1/4 stands for.
_CELL = 4
# The usual size of what corrects a picture, in its range of 1: the optimizer's steps are of a size of their own.
_CORRECTION = 0.1


class AroundLinear(Transform):
    """Networks of three stages, at 1/4, 1/8 and 1/16 from the picture's side, around a linear path or alone."""

    def surround(self, latents: int, quarter: int, eighth: int) -> None:
        """Make the linear path of M latents, and what joins it with the features at 1/4 and 1/8."""
        self.linear = LinearPath(latents)
        self.analysis_correction = nn.Conv2d(quarter, 3 * _CELL**2, 1)
        self.analysis_direct = nn.Conv2d(eighth, latents, 2, 2)
        self.synthesis_direct = nn.ConvTranspose2d(latents, eighth, 2, 2)
        self.synthesis_view = nn.Conv2d(3 * _CELL**2, quarter, 1)
        start_from_nothing(self.analysis_correction, self.analysis_direct, self.synthesis_direct, self.synthesis_view)

    @abstractmethod
    def down(self, index: int, x: Tensor, quality: Tensor) -> Tensor:
        """Do a stage of the analysis."""

    @abstractmethod
    def to_latent(self, x: Tensor) -> Tensor:
        """Map the last features of the analysis to latents."""

    @abstractmethod
    def up(self, index: int, x: Tensor, quality: Tensor) -> Tensor:
        """Begin a stage of the synthesis: change the scale."""

    @abstractmethod
    def finish(self, index: int, x: Tensor, quality: Tensor) -> Tensor:
        """Do the rest of a stage of the synthesis; it may overwrite x where no gradient is asked for."""

    @abstractmethod
    def to_picture(self, x: Tensor) -> Tensor:
        """Map the last features of the synthesis to a picture."""

    def analysis(self, x: Tensor, quality: Tensor) -> Tensor:
        """See `Transform`."""
        x = x - 0.5
        first = self.down(0, x, quality)
        if self.linear is not None:
            x = x + _CORRECTION * functional.pixel_shuffle(self.analysis_correction(first), _CELL)
        second = self.down(1, first, quality)
        y = self.to_latent(self.down(2, second, quality))
        if self.linear is None:
            return y
        return self.linear.to_latent(x) + (self.analysis_direct(second) + y) * self.linear.spread

    def synthesis(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """See `Transform`."""
        y = y_hat if self.linear is None else y_hat / self.linear.spread
        features = self.up(1, self.finish(0, self.up(0, y, quality), quality), quality)
        if self.linear is not None:
            features = add(features, self.synthesis_direct(y))
        features = self.up(2, self.finish(1, features, quality), quality)
        if self.linear is None:
            return self.to_picture(self.finish(2, features, quality)) + 0.5
        x = self.linear.to_picture(y_hat)
        features = add(features, self.synthesis_view(functional.pixel_unshuffle(x, _CELL)))
        # As little as can be is held while the last blocks compute: they take the most memory.
        return add(x, self.to_picture(self.finish(2, features, quality))) + 0.5
