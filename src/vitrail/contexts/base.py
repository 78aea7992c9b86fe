"""What all context models share: the contract, and the network that turns context into parameters."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vitrail.errors import ModelError
from vitrail.layers import Kit, mlp
from vitrail.orders import Group, Order


class Walk(ABC):
    """One traversal of the groups: `predict(0)`, `update(0, …)`, `predict(1)`, and so on to the last group."""

    @abstractmethod
    def predict(self, step: int) -> Tensor:
        """Return the parameters (B, P, C, n) of the group `step`: C channels, n positions in row-major order."""

    @abstractmethod
    def update(self, step: int, symbols: Tensor) -> None:
        """Take the symbols (B, C, n) of the group `step`, or the points that a trellis names by them."""


class ContextModel(nn.Module, ABC):
    """The contract of a context model (see the package's text).

    A segment's channels lie side by side, or `interleaved`: every Ncs-th, so that each segment has some of every sort.
    """

    def __init__(self, order: Order, latents: int, parameters: int, interleaved: bool = False) -> None:
        super().__init__()
        if latents % order.segments:
            raise ModelError(f"{latents} latent channels cannot be cut into {order.segments} equal segments")
        self.order = order
        self.latents = latents
        self.outputs = parameters
        self.segment_channels = latents // order.segments
        self.interleaved = interleaved

    @abstractmethod
    def forward(self, symbols: Tensor, features: Tensor) -> Tensor:
        """Return the parameters (B, P, M, h, w) of all groups; those of a group see earlier groups alone."""

    @abstractmethod
    def walk(self, features: Tensor) -> Walk:
        """Start a stepwise traversal for features (B, F, h, w)."""

    def single_pass(self, symbols: Tensor, features: Tensor) -> "Known":
        """Start a traversal for an encoder, whose parameters all come from one masked pass."""
        size = (symbols.shape[2], symbols.shape[3])
        flat, positions = self(symbols, features).flatten(3), self.order.positions(*size)
        groups = self.order.sequence(*size)
        return Known([flat[:, :, self.channels(each)][..., positions[each.phase]] for each in groups])

    def stepwise(self, symbols: Tensor, features: Tensor) -> Tensor:
        """Return what `forward` does, by the walk."""
        size = (symbols.shape[2], symbols.shape[3])
        positions = [phase.to(symbols.device) for phase in self.order.positions(*size)]
        walk = self.walk(features)
        parameters = symbols.new_zeros(len(symbols), self.outputs, self.latents, size[0] * size[1])
        for step, group in enumerate(self.order.sequence(*size)):
            parameters[:, :, self.channels(group), positions[group.phase]] = walk.predict(step).to(parameters.dtype)
            walk.update(step, self.take(group, symbols, positions))
        return parameters.unflatten(-1, size)

    def channels(self, group: Group) -> slice:
        """Return the latent channels of a group."""
        if self.interleaved:
            return slice(group.segment, None, self.order.segments)
        first = group.segment * self.segment_channels
        return slice(first, first + self.segment_channels)

    def join(self, segments: list[Tensor]) -> Tensor:
        """Put the channels (B, P, C, n) of all segments in the latent's order: (B, P, M, n)."""
        return torch.stack(segments, 3).flatten(2, 3) if self.interleaved else torch.cat(segments, 2)

    def take(self, group: Group, latent: Tensor, positions: Sequence[Tensor]) -> Tensor:
        """Return the elements (B, C, n) of a group of a latent (B, M, h, w)."""
        return latent[:, self.channels(group)].flatten(2).index_select(2, positions[group.phase])


class Known(Walk):
    """A walk whose parameters, of each group in turn, are known beforehand."""

    def __init__(self, predictions: Sequence[Tensor]) -> None:
        self.predictions = predictions

    def predict(self, step: int) -> Tensor:
        """See `Walk`."""
        return self.predictions[step]

    def update(self, step: int, symbols: Tensor) -> None:
        """Learn nothing."""


class Recorder(Walk):
    """A walk that remembers what it predicts."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.predictions: list[Tensor] = []

    def predict(self, step: int) -> Tensor:
        """See `Walk`."""
        self.predictions.append(self.walk.predict(step))
        return self.predictions[-1]

    def update(self, step: int, symbols: Tensor) -> None:
        """See `Walk`."""
        self.walk.update(step, symbols)


class ParameterNetworks(nn.Module):
    """The entropy-parameter network: dense layers on (features, context) of each position.

    `networks` is 1, one for all segments as in the paper, or the number of segments, one for each.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        widths: Sequence[int],
        networks: int,
        activation: str,
        kit: Kit,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(mlp(inputs, widths, activation, kit) for _ in range(networks))
        for network in self.networks:
            for parameter in cast(nn.Sequential, network)[-1].parameters():
                nn.init.zeros_(parameter)  # training starts from the usual scales

    def forward(self, segment: int, *inputs: Tensor) -> Tensor:
        """Map inputs (B, n, inputs[i]) to (B, n, widths[-1])."""
        first, *rest = cast(nn.Sequential, self.networks[segment if len(self.networks) > 1 else 0]).children()
        x: Tensor = first(*inputs)
        for layer in rest:
            x = layer(x)
        return x


def norm(name: str, width: int, kit: Kit) -> nn.Module:
    """Return a transformer's norm: l1, or layer, which has no exact form. Raises `ModelError` for another name."""
    norms = {"l1": kit.norm, "layer": nn.LayerNorm}
    if name not in norms:
        raise ModelError(f"no norm is called {name!r}; there are {', '.join(norms)}")
    return norms[name](width)
