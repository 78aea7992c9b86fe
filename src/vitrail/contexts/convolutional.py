"""Context models without attention: none at all, and the convolutional yardstick."""

from torch import Tensor, nn

from vitrail import config
from vitrail.contexts.base import ContextModel, ParameterNetworks, Walk
from vitrail.layers import Kit
from vitrail.orders import checkered, whole


class NoContext(ContextModel):
    """Parameters from the hyperprior alone; everything is one group."""

    def __init__(self, part: config.NoContext, latents: int, features: int, parameters: int, kit: Kit) -> None:
        super().__init__(whole(), latents, parameters)
        self.network = ParameterNetworks([features], [*part.hidden, parameters * latents], 1, "relu", kit)

    def forward(self, symbols: Tensor, features: Tensor) -> Tensor:
        """See `ContextModel`."""
        parameters: Tensor = self.network(0, features.flatten(2).transpose(1, 2))
        return parameters.transpose(1, 2).unflatten(1, (self.outputs, self.latents)).unflatten(-1, features.shape[2:])

    def walk(self, features: Tensor) -> Walk:
        """See `ContextModel`; no symbol is ever looked at."""
        return self.single_pass(features, features)


class CheckerboardContext(ContextModel):
    """Channel segments x checkerboard: a group sees, through one convolution, all symbols of earlier groups.

    Later symbols are zeros in the convolution's input, which makes the single pass and the walk the same
    computation. Every group has its own convolution, over the segments that are known in part or whole.
    """

    def __init__(
        self, part: config.CheckerboardContext, latents: int, features: int, parameters: int, kit: Kit
    ) -> None:
        super().__init__(checkered(part.order, part.segments), latents, parameters)
        self.known = [
            (1 + max(group.segment for group in self.order.groups[:step])) * self.segment_channels if step else 0
            for step in range(len(self.order.groups))
        ]
        self.width = part.width
        self.convolutions = nn.ModuleList(kit.conv(known, part.width, part.kernel) for known in self.known[1:])
        self.networks = ParameterNetworks(
            [features, part.width],
            [*part.hidden, parameters * self.segment_channels],
            part.segments,
            "relu",
            kit,
        )

    def forward(self, symbols: Tensor, features: Tensor) -> Tensor:
        """See `ContextModel`."""
        return self.stepwise(symbols, features)

    def walk(self, features: Tensor) -> "_CheckerboardWalk":
        """See `ContextModel`."""
        return _CheckerboardWalk(self, features)


class _CheckerboardWalk(Walk):
    def __init__(self, model: CheckerboardContext, features: Tensor) -> None:
        batch, _, height, width = features.shape
        self.model = model
        self.size = (height, width)
        self.positions = [phase.to(features.device) for phase in model.order.positions(height, width)]
        self.features = features.flatten(2).transpose(1, 2)
        self.symbols = features.new_zeros(batch, model.latents, height * width)

    def predict(self, step: int) -> Tensor:
        model, group = self.model, self.model.order.groups[step]
        positions = self.positions[group.phase]
        if step:
            known = self.symbols[:, : model.known[step]].unflatten(-1, self.size)
            context = model.convolutions[step - 1](known).flatten(2)[:, :, positions].transpose(1, 2)
        else:
            context = self.features.new_zeros(len(self.features), len(positions), model.width)
        output: Tensor = model.networks(group.segment, self.features[:, positions], context)
        return output.transpose(1, 2).unflatten(1, (model.outputs, model.segment_channels))

    def update(self, step: int, symbols: Tensor) -> None:
        # A new tensor each time: training differentiates through what earlier steps saw.
        following = self.symbols.clone()
        group = self.model.order.groups[step]
        following[:, self.model.channels(group), self.positions[group.phase]] = symbols.to(following.dtype)
        self.symbols = following
