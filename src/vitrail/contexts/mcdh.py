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
from vitrail.exact import levels
from vitrail.layers import Kit
from vitrail.orders import Raster, sfo
from vitrail.windows import MASKED

_REACH = 2
_VALUE_LEVELS = 2**15 - 1
_PATCH = [(i, j) for i in range(-_REACH, _REACH + 1) for j in range(-_REACH, _REACH + 1) if (i, j) != (0, 0)]
_CAUSAL = [(i, j) for i, j in _PATCH if i < 0 or (i == 0 and j < 0)]
_ODD = [(i, j) for i, j in _PATCH if (i + j) % 2]
_EVEN = [(i, j) for i, j in _PATCH if (i + j) % 2 == 0]

Neighbours = Sequence[tuple[int, int]]


class MCDHContext(ContextModel):
    """See the module's text; `local_context` and `global_context` switch the two off, for ablations."""

    def __init__(self, part: config.MCDHContext, latents: int, features: int, parameters: int, kit: Kit) -> None:
        orders = {"raster": Raster(), "checkerboard": sfo(1)}
        if part.order not in orders or part.width % part.heads:
            raise ModelError(f"MCDH's order is one of {', '.join(orders)}, its width a multiple of its heads")
        super().__init__(orders[part.order], latents, parameters)
        self.part, self.raster = part, part.order == "raster"
        self.asking, self.asked = (_CAUSAL, _CAUSAL) if self.raster else (_ODD, _EVEN)
        m, d = latents, part.width
        patch = [m] * len(self.asking)
        self.local = kit.linear(patch, 2 * m) if part.local_context else None
        if part.global_context:
            self.normalise = kit.norm(m * len(self.asking))
            self.query, self.key = (kit.linear([*patch, features], d) for _ in range(2))
            self.value, self.project = kit.linear([m], d), kit.linear([d], 2 * m)
        self.scale = 1 / math.sqrt(d // part.heads)
        self.weigh, self.mix = kit.weigh, kit.mix
        query_levels = math.isqrt(levels(d // part.heads, 1))
        self.grids = nn.ModuleList(kit.grid(count) for count in (query_levels, query_levels, _VALUE_LEVELS))
        contexts = 2 * m * (part.local_context + part.global_context)
        widths = [*part.hidden, parameters * m]
        self.networks = ParameterNetworks([features, *([contexts] if contexts else [])], widths, 1, "relu", kit)

    def channels(self, step: int) -> slice:
        """All channels, at every step."""
        return slice(0, self.latents)

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
        inputs = [features, torch.cat(list(contexts), -1)] if contexts else [features]
        output: Tensor = self.networks(0, *inputs)
        return output.transpose(1, 2).unflatten(1, (self.outputs, self.latents))

    # -- the single pass -------------------------------------------------------------------------------------------

    def forward(self, symbols: Tensor, features: Tensor) -> Tensor:
        """See `ContextModel`."""
        height, width = symbols.shape[2:]
        tokens = features.flatten(2).transpose(1, 2)
        patches = [patch.flatten(2).transpose(1, 2) for patch in _neighbours(symbols, self.asking)]
        contexts = []
        if self.part.local_context:
            contexts.append(self.local_of(patches))
        if self.part.global_context:
            contexts.append(self._global(symbols, patches, tokens))
        if not self.raster:
            second = torch.zeros(height * width, 1, dtype=symbols.dtype, device=symbols.device)
            second[self.order.positions(height, width)[1].to(symbols.device)] = 1
            contexts = [context * second for context in contexts]
        return self.parameters_of(tokens, contexts).unflatten(-1, (height, width))

    def _global(self, symbols: Tensor, asking: Sequence[Tensor], tokens: Tensor) -> Tensor:
        """Return the global context (B, h w, 2 M) of all positions, tile by tile; zero where nothing is earlier."""
        height, width = symbols.shape[2:]
        asked = asking
        if not self.raster:
            asked = [patch.flatten(2).transpose(1, 2) for patch in _neighbours(symbols, self.asked)]
        q = self.describe(self.query, asking, tokens, 0)
        k = self.describe(self.key, asked, tokens, 1)
        v = self.values(symbols.flatten(2).transpose(1, 2))
        result = symbols.new_zeros(len(symbols), height * width, 2 * self.latents)
        for tile in _tiles(height, width, self.part.tile, symbols.device):
            queries = keys = tile
            mask = None
            if self.raster:
                mask = torch.zeros(len(tile), len(tile), dtype=torch.float32, device=tile.device)
                mask.masked_fill_(tile[None, :] >= tile[:, None], MASKED)
                queries = tile[1:]
                mask = mask[1:]
            else:
                odd = (tile // width + tile % width) % 2
                queries, keys = tile[odd == 1], tile[odd == 0]
            if len(queries) and len(keys):
                context = self.attend(q[:, :, queries], k[:, :, keys], v[:, :, keys], mask)
                result[:, queries] = context.to(result.dtype)
        return result

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
        count = self.model.part.local_context + self.model.part.global_context
        nothing = [first.new_zeros(*first.shape[:2], 2 * self.model.latents)] * count
        return self.model.parameters_of(first, nothing)

    def update(self, step: int, symbols: Tensor) -> None:
        self.symbols.flatten(2)[:, :, self.positions[step]] = symbols.to(self.symbols.dtype)


class _RasterWalk(Walk):
    """A step a position; keys and values of earlier positions are kept."""

    def __init__(self, model: MCDHContext, features: Tensor) -> None:
        batch, _, self.height, self.width = features.shape
        self.model = model
        self.features = features.flatten(2).transpose(1, 2)
        self.padded = features.new_zeros(batch, model.latents, self.height + 2 * _REACH, self.width + 2 * _REACH)
        tiles = _tiles(self.height, self.width, model.part.tile, features.device)
        self.place = {index: (tile, at) for tile in tiles for at, index in enumerate(tile.tolist())}
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


def _neighbours(symbols: Tensor, places: Neighbours) -> list[Tensor]:
    """Return for each offset the map (B, M, h, w) of the neighbours there; outside the latent they are zero."""
    height, width = symbols.shape[2:]
    padded = functional.pad(symbols, (_REACH,) * 4)
    return [padded[:, :, _REACH + i : _REACH + i + height, _REACH + j : _REACH + j + width] for i, j in places]


def _tiles(height: int, width: int, tile: int, device: torch.device) -> list[Tensor]:
    """Return the row-major indices of the positions of each tile."""
    index = torch.arange(height * width, device=device).view(height, width)
    return [part.flatten() for rows in index.split(tile, 0) for part in rows.split(tile, 1)]
