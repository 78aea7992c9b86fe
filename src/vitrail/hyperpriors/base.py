"""The contract of a hyperprior."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Hyperprior(nn.Module, ABC):
    """Side information, sent first. y (B, M, 4a, 4b); z (B, `channels`, a, b); features (B, `features`, 4a, 4b).

    The first M features are the prediction of y.
    """

    channels: int
    features: int

    @abstractmethod
    def analysis(self, y: Tensor) -> Tensor:
        """Map y to z."""

    @abstractmethod
    def synthesis(self, z_hat: Tensor) -> Tensor:
        """Map z_hat to features."""
