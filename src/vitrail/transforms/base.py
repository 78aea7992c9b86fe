"""The contract of a transform."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vitrail.transforms.linear import LinearPath


class Transform(nn.Module, ABC):
    """Picture <-> latent.

    x (B, 3, H, W) in 0..1, H and W multiples of 16; y (B, M, H/16, W/16); quality (B,) in 1..100.
    """

    linear: LinearPath | None
    """What stands beside the networks, and what training fits before it begins, if the transform has it."""

    @abstractmethod
    def analysis(self, x: Tensor, quality: Tensor) -> Tensor:
        """Map x to y."""

    @abstractmethod
    def synthesis(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """Map y_hat to x_hat."""
