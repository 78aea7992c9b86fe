"""MCDH's contexts: a masked local one, and a global one by attention over earlier positions (arXiv 2309.10799).

The paper's figures are not public; this is an interpretation. Every element of a position is coded at once. The local
context is a linear map of the known ones of the 24 neighbours in a 5 x 5 patch. For the global context the same patch,
normalised, is the query of a position, the normalised patch around an earlier position its key, and the earlier
position's symbols the value: where the neighbourhood looked alike, the symbols may be alike.

    raster          a position sees all before it in row-major order: 12 neighbours, 1 step a position
    checkerboard    step 1: the hyperprior alone; step 2: a position of the second colour sees the 12 neighbours at odd
                    distance, all of the first colour; a key's patch has the 12 at even distance, of that colour too

As the neighbours differ, so do the weights: a model is trained for one of the orders. The global context stays within
tiles of `tile` x `tile` positions (1024 x 1024 pixels by default), so that time grows with the number of tiles, and the
scores of one tile are all that is held.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrail import config
from vitrail.contexts.base import ContextModel, ParameterNetworks, Walk
from vitrail.errors import ModelError
from vitrail.exact import LARGEST_WEIGHT, levels
from vitrail.layers import Kit
from vitrail.orders import Serial, sfo
from vitrail.windows import MASKED

_REACH = 2
_VALUE_LEVELS = 2**15 - 1
# Kinds of tiles whose positions are remembered.
_REMEMBERED = 64
_PATCH = [(i, j) for i in range(-_REACH, _REACH + 1) for j in range(-_REACH, _REACH + 1) if (i, j) != (0, 0)]
_CAUSAL = [(i, j) for i, j in _PATCH if i < 0 or (i == 0 and j < 0)]
_ODD = [(i, j) for i, j in _PATCH if (i + j) % 2]
_EVEN = [(i, j) for i, j in _PATCH if (i + j) % 2 == 0]

Neighbours = Sequence[tuple[int, int]]


class MCDHContext(ContextModel):
    """See the module's text; `local_context` and `global_context` switch the two off, for ablations."""

    def __init__(self, part: config.MCDHContext, latents: int, features: int, parameters: int, kit: Kit) -> None:
        orders = {"raster": Serial(1), "checkerboard": sfo(1)}
        if part.order not in orders or part.width % part.heads:
            raise ModelError(f"MCDH's order is one of {', '.join(orders)}, its width a multiple of its heads")
        super().__init__(orders[part.order], latents, parameters)
        levels(part.tile**2, LARGEST_WEIGHT)  # or the weights of a tile would not add up exactly
        self.part, self.raster = part, part.order == "raster"
        self.asking, self.asked = (_CAUSAL, _CAUSAL) if self.raster else (_ODD, _EVEN)
        m, d = latents, part.width
        patch = [m] * len(self.asking)
        self.local = kit.linear(patch, 2 * m) if part.local_context else None
        if part.global_context:
            self.normalise = kit.norm(m * len(self.asking))
            self.query, self.key = (kit.linear([*patch, features], d) for _ in range(2))
            self.value, self.project = kit.linear([m], d), kit.linear([d], 2 * m)
        self._places: dict[tuple[int, int, int, torch.device], list[Tensor]] = {}
        self.scale = 1 / math.sqrt(d // part.heads)
        self.weigh, self.mix = kit.weigh, kit.mix
        query_levels = math.isqrt(levels(d // part.heads, 1))
        self.grids = nn.ModuleList(kit.grid(count) for count in (query_levels, query_levels, _VALUE_LEVELS))
        # Inputs of unlike sizes, such as means and other features, come apart: each then has a grid of its own.
        contexts = part.local_context + part.global_context
        self.inputs = [m, *([features - m] if features > m else []), *[m] * (2 * contexts)]
        self.networks = ParameterNetworks(self.inputs, [*part.hidden, parameters * m], 1, "relu", kit)

    # -- pieces that the pass and the walk share; tokens are (B, n, …) ---------------------------------------------

    def local_of(self, patches: Sequence[Tensor]) -> Tensor:
        """Map the neighbours' symbols to the local context (B, n, 2 M)."""
        assert self.local is not None
        return self.local(*patches)

    def describe(self, layer: nn.Module, patches: Sequence[Tensor], features: Tensor, grid: int) -> Tensor:
        """Map neighbours and features to queries or keys (B, heads, n, d/heads)."""
        normed = self.normalise(torch.cat(list(patches), -1)).split(self.latents, -1)
        return self._heads(layer(*normed, features), grid)

    def values(self, symbols: Tensor) -> Tensor:
        """Map symbols (B, n, M) to values (B, heads, n, d/heads)."""
        return self._heads(self.value(symbols), 2)

    def _heads(self, x: Tensor, grid: int) -> Tensor:
        return self.grids[grid](x.unflatten(-1, (self.part.heads, -1)).transpose(1, 2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Return the global context (B, n, 2 M)."""
        scores = (q @ k.transpose(-1, -2)) * self.scale
        weights = self.weigh(scores if mask is None else scores + mask)
        attended = self.mix(weights.to(v.dtype), v) / weights.sum(-1, keepdim=True)
        return self.project(attended.transpose(1, 2).flatten(2))

    def parameters_of(self, features: Tensor, contexts: Sequence[Tensor]) -> Tensor:
        """Map features (B, n, F) and contexts (B, n, 2 M) to parameters (B, P, M, n)."""
        output: Tensor = self.networks(0, *torch.cat([features, *contexts], -1).split(self.inputs, -1))
        return output.transpose(1, 2).unflatten(1, (self.outputs, self.latents))

    # -- the single pass -------------------------------------------------------------------------------------------

    def forward(self, symbols: Tensor, features: Tensor) -> Tensor:
        """See `ContextModel`; tile by tile, so that the patches of one tile are all that is held."""
        height, width = symbols.shape[2:]
        padded = functional.pad(symbols, (_REACH,) * 4)
        parameters = symbols.new_zeros(len(symbols), self.outputs, self.latents, height, width)
        for rows, columns in _tiles(height, width, self.part.tile):
            tokens = features[:, :, rows, columns].flatten(2).transpose(1, 2)
            predicted = self.parameters_of(tokens, self._contexts(padded, tokens, rows, columns))
            predicted = predicted.unflatten(-1, (rows.stop - rows.start, -1))
            parameters[..., rows, columns] = predicted.to(parameters.dtype)
        return parameters

    def places(self, rows: slice, columns: slice, device: torch.device) -> list[Tensor]:
        """Return the indices within a tile of the positions that ask, and of those that are asked.

        They are remembered: a recorded step may not copy them to the device, and must find them where they were.
        """
        size = (rows.stop - rows.start, columns.stop - columns.start)
        parity = (rows.start + columns.start) % 2
        index = (*size, parity, device)
        if index not in self._places:
            if self.raster:
                found = [torch.arange(size[0] * size[1], device=device)] * 2
            else:
                found = [phase.to(device) for phase in self.order.positions(*size)[:: 1 if parity else -1]]
            if len(self._places) >= _REMEMBERED:
                self._places.clear()
            self._places[index] = found
        return self._places[index]

    def _contexts(self, padded: Tensor, tokens: Tensor, rows: slice, columns: slice) -> list[Tensor]:
        """Return the contexts (B, n, 2 M) of a tile, zero where nothing is known, of the padded symbols."""

        def patches(places: Neighbours, chosen: Tensor) -> list[Tensor]:
            shifted = (padded[:, :, _moved(rows, i), _moved(columns, j)] for i, j in places)
            return [patch.flatten(2).transpose(1, 2).index_select(1, chosen) for patch in shifted]

        asking, asked = self.places(rows, columns, tokens.device)
        contexts = []
        if len(asking):
            around = patches(self.asking, asking)
            if self.part.local_context:
                contexts.append(self.local_of(around))
            if self.part.global_context:
                around_keys = around if self.raster else patches(self.asked, asked)
                q = self.describe(self.query, around, tokens.index_select(1, asking), 0)
                k = self.describe(self.key, around_keys, tokens.index_select(1, asked), 1)
                contexts.append(self._global(q, k, self.values(patches([(0, 0)], asked)[0])))
        found = [context.new_zeros(*tokens.shape[:2], 2 * self.latents) for context in contexts]
        for whole, context in zip(found, contexts, strict=True):
            whole[:, asking] = context
        return found or self.nothing(tokens)

    def _global(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the global context (B, n, 2 M) of a tile's queries; zero where no key is earlier."""
        if not self.raster:
            return self.attend(q, k, v, None) if k.shape[2] else q.new_zeros(len(q), q.shape[2], 2 * self.latents)
        count = q.shape[2]
        result = q.new_zeros(len(q), count, 2 * self.latents)
        if count > 1:  # the first has no past
            later = torch.full((count, count), MASKED, dtype=torch.float32, device=q.device).triu()
            context = self.attend(q[:, :, 1:], k, v, later[1:])
            result[:, 1:] = context.to(result.dtype)
        return result

    def nothing(self, tokens: Tensor) -> list[Tensor]:
        """Return contexts (B, n, 2 M) of zeros."""
        count = self.part.local_context + self.part.global_context
        return [tokens.new_zeros(*tokens.shape[:2], 2 * self.latents)] * count

    def walk(self, features: Tensor) -> Walk:
        """See `ContextModel`."""
        return _RasterWalk(self, features) if self.raster else _CheckerboardWalk(self, features)


class _CheckerboardWalk(Walk):
    """Two steps, each of them the single pass over what is known."""

    def __init__(self, model: MCDHContext, features: Tensor) -> None:
        self.model, self.features = model, features
        self.positions = [phase.to(features.device) for phase in model.order.positions(*features.shape[2:])]
        self.symbols = features.new_zeros(len(features), model.latents, *features.shape[2:])

    def predict(self, step: int) -> Tensor:
        if step:
            return self.model(self.symbols, self.features).flatten(3)[..., self.positions[1]]
        first = self.features.flatten(2).transpose(1, 2)[:, self.positions[0]]
        return self.model.parameters_of(first, self.model.nothing(first))

    def update(self, step: int, symbols: Tensor) -> None:
        self.symbols.flatten(2)[:, :, self.positions[step]] = symbols.to(self.symbols.dtype)


class _RasterWalk(Walk):
    """A step a position; keys and values of earlier positions are kept."""

    def __init__(self, model: MCDHContext, features: Tensor) -> None:
        batch, _, self.height, self.width = features.shape
        self.model = model
        self.features = features.flatten(2).transpose(1, 2)
        self.padded = features.new_zeros(batch, model.latents, self.height + 2 * _REACH, self.width + 2 * _REACH)
        index = torch.arange(self.height * self.width, device="cpu").view(self.height, self.width)
        tiles = [index[part].flatten() for part in _tiles(self.height, self.width, model.part.tile)]
        placed = [(tile.tolist(), tile.to(features.device)) for tile in tiles]
        self.place = {index: (tile, at) for places, tile in placed for at, index in enumerate(places)}
        shape = (batch, model.part.heads, self.height * self.width, model.part.width // model.part.heads)
        self.keys, self.values = features.new_zeros(shape), features.new_zeros(shape)

    def predict(self, step: int) -> Tensor:
        model, (row, column) = self.model, divmod(step, self.width)
        patches = [self.padded[:, None, :, row + _REACH + i, column + _REACH + j] for i, j in model.asking]
        features = self.features[:, step : step + 1]
        contexts = []
        if model.part.local_context:
            contexts.append(model.local_of(patches))
        if model.part.global_context:
            tile, at = self.place[step]
            self.keys[:, :, step] = model.describe(model.key, patches, features, 1)[:, :, 0]
            if at:
                q = model.describe(model.query, patches, features, 0)
                earlier = tile[:at]
                contexts.append(model.attend(q, self.keys[:, :, earlier], self.values[:, :, earlier], None))
            else:
                contexts.append(features.new_zeros(len(features), 1, 2 * model.latents))
        return model.parameters_of(features, contexts)

    def update(self, step: int, symbols: Tensor) -> None:
        row, column = divmod(step, self.width)
        taken = symbols.to(self.padded.dtype)
        self.padded[:, :, row + _REACH, column + _REACH] = taken[..., 0]
        self.values[:, :, step] = self.model.values(taken.transpose(1, 2))[:, :, 0]


def _moved(part: slice, offset: int) -> slice:
    """Return where a tile's rows or columns, moved by an offset, are in the padded latent."""
    return slice(part.start + _REACH + offset, part.stop + _REACH + offset)


def _tiles(height: int, width: int, tile: int) -> list[tuple[slice, slice]]:
    """Return the rows and columns of each tile."""
    rows, columns = (
        [slice(start, min(start + tile, side)) for start in range(0, side, tile)] for side in (height, width)
    )
    return [(row, column) for row in rows for column in columns]
