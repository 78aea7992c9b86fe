"""Contextformer, the serial baseline: attention over a sliding window of channel segments (arXiv 2203.02452).

One segment of one position is coded at a time. Its context is a transformer's output on the segments before it within
a K x K window around it, which stays inside the latent: a start token and the earlier segments, in coding order, with
learned places within the window; each token sees itself and those before it. Only tokens that exist are processed, the
dynamic sequence of the paper. As a token's place changes from window to window, nothing can be kept between them: this
is what eContextformer does away with. In a latent no larger than the window all windows are one, so that one masked
pass gives all contexts, as in training on small crops.
"""

import math

import torch
from torch import Tensor, nn

from vitrail import config
from vitrail.contexts.base import ContextModel, ParameterNetworks, Walk, norm
from vitrail.errors import ModelError
from vitrail.exact import LARGEST_WEIGHT, levels
from vitrail.layers import Kit, mlp
from vitrail.orders import Serial
from vitrail.windows import MASKED


class _Block(nn.Module):
    def __init__(self, part: config.Contextformer, kit: Kit) -> None:
        super().__init__()
        self.heads, self.weigh = part.heads, kit.weigh
        per_head = part.width // part.heads
        self.scale = 1 / math.sqrt(per_head)
        query_levels = math.isqrt(levels(per_head, 1))
        value_levels = levels(part.segments * part.window**2, LARGEST_WEIGHT)
        self.grids = nn.ModuleList(kit.grid(count) for count in (query_levels, query_levels, value_levels))
        self.norm1, self.norm2 = norm(part.norm, part.width, kit), norm(part.norm, part.width, kit)
        self.qkv = kit.linear([part.width], 3 * part.width)
        self.project = kit.linear([part.width], part.width)
        self.mlp = mlp([part.width], [part.mlp * part.width, part.width], part.activation, kit)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map tokens (B, n, d) to tokens; mask (n, n) is added to the scores."""
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = (grid(part) for grid, part in zip(self.grids, parts, strict=True))
        weights = self.weigh((q @ k.transpose(-1, -2)) * self.scale + mask)
        attended = (weights.to(v.dtype) @ v) / weights.sum(-1, keepdim=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        fed: Tensor = self.mlp(self.norm2(x))
        return x + fed


class Contextformer(ContextModel):
    """See the module's text."""

    def __init__(self, part: config.Contextformer, latents: int, features: int, parameters: int, kit: Kit) -> None:
        if part.order not in ("sfo", "cfo") or part.width % part.heads or part.window % 2:
            raise ModelError("Contextformer's order is sfo or cfo, its width a multiple of its heads, its window even")
        super().__init__(Serial(part.segments, sfo=part.order == "sfo"), latents, parameters)
        self.part = part
        self.embed = kit.linear([self.segment_channels], part.width)
        self.start = nn.Parameter(torch.zeros(part.width))
        self.places = nn.Parameter(0.02 * torch.randn(part.segments, part.window, part.window, part.width))
        self.blocks = nn.ModuleList(_Block(part, kit) for _ in range(part.layers))
        self.norm = norm(part.norm, part.width, kit)
        widths = [*part.hidden, parameters * self.segment_channels]
        self.networks = ParameterNetworks([features, part.width], widths, 1, part.activation, kit)

    def origin(self, row: int, column: int, height: int, width: int) -> tuple[int, int]:
        """Return the upper left corner of the window of a position in a height x width latent."""
        k = self.part.window
        return max(0, min(row - k // 2, height - k)), max(0, min(column - k // 2, width - k))

    def arrange(self, values: Tensor) -> Tensor:
        """Put values (B, S, h, w, C) of a window in coding order (B, n, C)."""
        return (values if self.part.order == "sfo" else values.permute(0, 2, 3, 1, 4)).flatten(1, 3)

    def contexts(self, symbols: Tensor, top: int, left: int, count: int) -> Tensor:
        """Return the contexts (B, count, d) of the first elements, in coding order, of the window at a corner."""
        k = self.part.window
        window = symbols[:, :, top : top + k, left : left + k].unflatten(1, (self.part.segments, -1))
        values = self.arrange(window.permute(0, 1, 3, 4, 2))[:, : count - 1]
        places = self.arrange(self.places[None, :, : window.shape[3], : window.shape[4]])[:, : count - 1]
        start = self.start.expand(len(symbols), 1, -1)
        x = torch.cat([start, self.embed(values) + places], 1)
        mask = torch.full((count, count), MASKED, dtype=torch.float32, device=x.device).triu(1)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def parameters_of(self, features: Tensor, contexts: Tensor) -> Tensor:
        """Map features (B, n, F) and contexts (B, n, d) to parameters (B, P, C, n)."""
        output: Tensor = self.networks(0, features, contexts)
        return output.transpose(1, 2).unflatten(1, (self.outputs, self.segment_channels))

    def index(self, segment: int, row: int, column: int, height: int, width: int) -> int:
        """Return an element's number, in coding order, within its window in a height x width latent."""
        top, left = self.origin(row, column, height, width)
        rows, columns = (min(self.part.window, side) for side in (height, width))
        place = (row - top) * columns + column - left
        return segment * rows * columns + place if self.part.order == "sfo" else place * self.part.segments + segment

    def forward(self, symbols: Tensor, features: Tensor) -> Tensor:
        """See `ContextModel`; a masked pass for each window, of which there is one if the latent is no larger."""
        height, width = symbols.shape[2:]
        segments, k = self.part.segments, self.part.window
        count = segments * min(k, height) * min(k, width)
        found: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for row in range(height):
            for column in range(width):
                found.setdefault(self.origin(row, column, height, width), []).append((row, column))
        contexts = symbols.new_zeros(len(symbols), segments, height, width, self.part.width)
        for (top, left), positions in found.items():
            outputs = self.contexts(symbols, top, left, count)
            rows, columns = (list(each) for each in zip(*positions, strict=True))
            for segment in range(segments):
                at = [self.index(segment, row, column, height, width) for row, column in positions]
                contexts[:, segment, rows, columns] = outputs[:, at].to(contexts.dtype)
        tokens = features.flatten(2).transpose(1, 2)
        predicted = [self.parameters_of(tokens, contexts[:, segment].flatten(1, 2)) for segment in range(segments)]
        return torch.cat(predicted, 2).unflatten(-1, (height, width))

    def walk(self, features: Tensor) -> Walk:
        """See `ContextModel`."""
        return _ContextformerWalk(self, features)


class _ContextformerWalk(Walk):
    """A step a segment and position; each runs the transformer on the segments before it in its window."""

    def __init__(self, model: Contextformer, features: Tensor) -> None:
        self.model = model
        self.size = (features.shape[2], features.shape[3])
        self.sequence = model.order.sequence(*self.size)
        self.features = features.flatten(2).transpose(1, 2)
        self.symbols = features.new_zeros(len(features), model.latents, *self.size)

    def predict(self, step: int) -> Tensor:
        model, group = self.model, self.sequence[step]
        row, column = divmod(group.phase, self.size[1])
        count = model.index(group.segment, row, column, *self.size) + 1
        context = model.contexts(self.symbols, *model.origin(row, column, *self.size), count)[:, -1:]
        return model.parameters_of(self.features[:, group.phase : group.phase + 1], context)

    def update(self, step: int, symbols: Tensor) -> None:
        group = self.sequence[step]
        self.symbols.flatten(2)[:, self.model.channels(group), group.phase] = symbols[..., 0].to(self.symbols.dtype)
