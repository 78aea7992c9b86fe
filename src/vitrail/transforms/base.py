"""The contract of a transform."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vitrail.transforms.linear import LinearPath


class Transform(nn.Module, ABC):
    """Picture <-> latent.

    x (B, 3, H, W) in 0..1, H and W multiples of 16; y (B, M, H/16, W/16); quality (B,) in 1..100.
    """

    linear: LinearPath | None
    """What stands beside the network, and what training fits before it begins, if the transform has it."""

    @abstractmethod
    def network_analysis(self, x: Tensor, quality: Tensor) -> Tensor:
        """Map x, less its middle gray, to the network's y; beside a linear path in units of its spread."""

    @abstractmethod
    def network_synthesis(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """Map y_hat, in the same units, to the network's x_hat, less its middle gray."""

    def analysis(self, x: Tensor, quality: Tensor) -> Tensor:
        """Map x to y."""
        x = x - 0.5
        y = self.network_analysis(x, quality)
        return y if self.linear is None else self.linear.to_latent(x) + y * self.linear.spread

    def synthesis(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """Map y_hat to x_hat."""
        if self.linear is None:
            return self.network_synthesis(y_hat, quality) + 0.5
        x = self.network_synthesis(y_hat / self.linear.spread, quality)
        return self.linear.to_picture(y_hat) + x + 0.5
