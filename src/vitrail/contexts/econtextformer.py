"""eContextformer: spatio-channel window attention over coding groups (arXiv 2306.14287, section III).

A token is one channel segment at one position. Checkered grouping gives 2 Ncs groups (without it a segment is a
group); the rearrangement (EGR) packs a group of an h x w latent into h x w/2 slots, where slot (i, j) of phase p is
position (i, 2j + (i + p) % 2):

    phase 0: x . x .      slots: x x      phase 1: . x . x      slots: x x
             . x . x             x x               x . x .             x x

The token of group n at a slot gives the context of group n + 1 at the same slot, so the last group is never a token.
A window is K rows x K/2 slots, a true K x K area; every second layer's windows are shifted by half. Within a window
a token attends to the tokens of its own and all earlier groups, hence the keys and values of a group are final once
computed, in every layer, and can be kept. The bias is learned over (segment, row, column) from the key to the
*target*, the element whose parameters are asked for.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitrail import config
from vitrail.contexts.base import ContextModel, Known, ParameterNetworks, Walk, norm
from vitrail.errors import ModelError
from vitrail.exact import LARGEST_WEIGHT, levels
from vitrail.layers import Kit, mlp
from vitrail.orders import Group, Order, checkered, whole
from vitrail.windows import MASKED, relative_bias

# Positions; the masks of larger latents are not kept.
_REMEMBERED = 64 * 64
# Windows whose attention is computed at once when no gradient is asked for: their scores stay in the cache.
_WINDOWS = 16


class _Geometry:
    """Slots, windows and masks of an h x w latent, padded to whole windows."""

    def __init__(
        self, order: Order, height: int, width: int, part: config.EContextformer, device: torch.device
    ) -> None:
        self.window = window = part.window
        self.across = window // order.phases  # slots of a window's row
        self.slotwise = part.attention == "channel"
        positions = order.positions(height, width)
        self.positions = [phase.to(device) for phase in positions]
        # Where each position lies when the phases follow one another.
        self.places = torch.cat(positions).argsort().to(device)
        rows = -(-height // window) * window
        slots = -(-width // window) * self.across
        self.size = (rows, slots)
        row = torch.arange(rows, device="cpu").unsqueeze(1)
        slot = torch.arange(slots, device="cpu")
        column = [_column(row, slot, phase, order.phases) for phase in range(order.phases)]
        valid = torch.stack([(row < height) & (place < width) for place in column])
        self.slots = [torch.nonzero(phase.flatten()).flatten().to(device) for phase in valid]
        self._keys = [self.partition(valid[:, None, ..., None].to(device), shift)[..., 0] for shift in (False, True)]
        wrapped = (row >= rows - window // 2) * 2 + (slot >= slots - self.across // 2)
        self._regions = self._cut(wrapped[None, None, ..., None].to(device))[..., 0]
        self._masks: dict[tuple[bool, tuple[int, ...], tuple[int, ...]], Tensor] = {}

    def _cut(self, x: Tensor) -> Tensor:
        batch, groups, rows, slots, channels = x.shape
        k, across = self.window, self.across
        x = x.reshape(batch, groups, rows // k, k, slots // across, across, channels)
        return x.permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, groups * k * across, channels)

    def by_phase(self, features: Tensor) -> list[Tensor]:
        """Map features (B, F, h, w) to those (B, n, F) of each phase's positions."""
        every = features.flatten(2).transpose(1, 2)
        return [every.index_select(1, at) for at in self.positions]

    def partition(self, x: Tensor, shift: bool) -> Tensor:
        """Map tokens (B, n, rows, slots, C) to windows (B * windows, n * the slots of a window, C)."""
        return self._cut(x.roll((-(self.window // 2), -(self.across // 2)), (2, 3)) if shift else x)

    def merge(self, x: Tensor, groups: int, shift: bool) -> Tensor:
        """Invert `partition`."""
        k, across = self.window, self.across
        rows, slots = self.size
        x = x.reshape(-1, rows // k, slots // across, groups, k, across, x.shape[-1])
        x = x.permute(0, 3, 1, 4, 2, 5, 6).reshape(-1, groups, rows, slots, x.shape[-1])
        return x.roll((self.window // 2, self.across // 2), (2, 3)) if shift else x

    def mask(self, shift: bool, queries: Sequence[int], keys: Sequence[int], phases: Sequence[int]) -> Tensor:
        """Return what is added to scores (windows, 1, queries, keys): 0, or `MASKED` where a key may not be seen.

        A key is seen from tokens of its own and later groups, from its own side of a shifted window's seam, and
        never when it is padding; in channel attention from its own slot alone. `phases` gives the phase of every token
        index.
        """
        index = (shift, tuple(queries), tuple(keys))
        if index not in self._masks:
            device = self._regions.device
            valid = self._keys[shift].unflatten(0, (len(self.slots), -1))[[phases[key] for key in keys]]
            allowed = valid.permute(1, 0, 2)[:, None, None]
            earlier = torch.tensor(keys, device=device) <= torch.tensor(queries, device=device)[:, None]
            allowed = allowed & earlier[:, None, :, None]
            if shift:
                same = self._regions[:, :, None] == self._regions[:, None, :]
                allowed = allowed & same[:, None, :, None]
            if self.slotwise:  # padding too, which is zero: no token may be left without a key
                own = torch.eye(self.window * self.across, dtype=torch.bool, device=device)[:, None]
                allowed = (earlier[:, None, :, None] & own).expand(len(allowed), -1, -1, -1, -1)
            allowed = allowed.expand(-1, -1, self.window * self.across, -1, -1)
            mask = torch.zeros(allowed.shape, dtype=torch.float32, device=device).masked_fill_(~allowed, MASKED)
            self._masks[index] = mask.flatten(3, 4).flatten(1, 2).unsqueeze(1)
        return self._masks[index]


class _Attention(nn.Module):
    def __init__(self, part: config.EContextformer, shift: bool, keys: int, relations: int, kit: Kit) -> None:
        super().__init__()
        self.heads, self.shift = part.heads, shift
        self.weigh = kit.weigh
        self.qkv = kit.linear([part.width], 3 * part.width)
        self.project = kit.linear([part.width], part.width)
        # What the two products of attention take must lie on grids if they are to be exact.
        per_head = part.width // part.heads
        self.scale = 1 / math.sqrt(per_head)
        query_levels = math.isqrt(levels(per_head, 1))
        value_levels = levels(keys, LARGEST_WEIGHT)
        self.grids = nn.ModuleList(kit.grid(count) for count in (query_levels, query_levels, value_levels))
        self.bias = nn.Parameter(torch.zeros(relations, part.heads))

    def forward(self, x: Tensor, geometry: _Geometry, relation: Tensor, mask: Tensor, cache: "_Cache | None") -> Tensor:
        """Attend within windows; x (B, n, rows, slots, d), relation (n S, m S), mask (windows, 1, n S, m S)."""
        qkv = geometry.partition(self.qkv(x), self.shift)
        q, k, v = (
            grid(each)
            for grid, each in zip(
                self.grids, qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4), strict=True
            )
        )
        if cache is not None:
            k, v = cache.extend(k, v)
        bias = relative_bias(self.bias, relation)
        q, k, v = (each.unflatten(0, (-1, len(mask))) for each in (q, k, v))
        groups = x.shape[1]
        if torch.is_grad_enabled():
            attended = self.attend(q, k, v, bias + mask)
        else:
            # A few windows at a time, or the scores of a large picture would fill the memory.
            pieces = zip(*(each.split(_WINDOWS, 1) for each in (q, k, v)), mask.split(_WINDOWS), strict=True)
            attended = torch.cat([self.attend_by_group(groups, q, k, v, bias + part) for q, k, v, part in pieces], 1)
        return self.project(geometry.merge(attended.flatten(0, 1).transpose(1, 2).flatten(2), groups, self.shift))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Map queries (B, windows, heads, n, d/heads), keys and values (…, m, …) to attended values."""
        weights = self.weigh((q @ k.transpose(-1, -2)).mul_(self.scale) + bias)  # of bf16, float32 again
        return (weights.to(v.dtype) @ v) / weights.sum(-1, keepdim=True)

    def attend_by_group(self, groups: int, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Do as `attend`, but spare the scores of later groups' keys, which the mask hides and which come last."""
        slots, past = q.shape[3] // groups, k.shape[3] - q.shape[3]
        if groups == 1:
            return self.attend(q, k, v, bias)
        blocks = zip(q.split(slots, 3), bias.split(slots, -2), range(past + slots, k.shape[3] + 1, slots), strict=True)
        return torch.cat(
            [self.attend(part, k[..., :seen, :], v[..., :seen, :], own[..., :seen]) for part, own, seen in blocks], 3
        )


class _Block(nn.Module):
    def __init__(self, part: config.EContextformer, shift: bool, keys: int, relations: int, kit: Kit) -> None:
        super().__init__()
        self.norm1 = norm(part.norm, part.width, kit)
        self.attention = _Attention(part, shift, keys, relations, kit)
        self.norm2 = norm(part.norm, part.width, kit)
        self.mlp = mlp([part.width], [part.mlp * part.width, part.width], part.activation, kit)

    def forward(self, x: Tensor, geometry: _Geometry, relation: Tensor, mask: Tensor, cache: "_Cache | None") -> Tensor:
        attended: Tensor = self.attention(self.norm1(x), geometry, relation, mask, cache)
        x = x + attended
        fed: Tensor = self.mlp(self.norm2(x))
        return x + fed


class _Cache:
    """Keys and values (windows, heads, tokens, d/heads) of one layer, written group by group into one allocation."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.filled = capacity, 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.keys is None or self.values is None:
            shape = (*k.shape[:2], self.capacity, k.shape[3])
            self.keys, self.values = k.new_empty(shape), v.new_empty(shape)
        end = self.filled + k.shape[2]
        self.keys[:, :, self.filled : end] = k
        self.values[:, :, self.filled : end] = v
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class EContextformer(ContextModel):
    """See the module's text. Tokens are numbered in coding order; without SFG token 0 is a start token."""

    def __init__(self, part: config.EContextformer, latents: int, features: int, parameters: int, kit: Kit) -> None:
        super().__init__(
            checkered(part.order, part.segments) if part.checkered else whole(part.segments),
            latents,
            parameters,
            part.interleaved,
        )
        if part.window % 4 or part.width % part.heads:
            raise ModelError("the window must be a multiple of 4, the width a multiple of the heads")
        if part.attention not in ("spatio-channel", "channel"):
            raise ModelError(f"attention is spatio-channel or channel, not {part.attention!r}")
        if part.cache and not part.egr:
            raise ModelError("keys and values can only be cached when groups are rearranged (egr)")
        self.part = part
        groups = self.order.groups
        sources = list(groups[:-1]) if part.sfg else [Group(-1, 0), *groups[:-1]]
        targets = groups[1:] if part.sfg else groups
        if not sources:
            raise ModelError("one segment without checkered groups has no earlier group; use NoContext")
        self.tokens = range(len(sources))
        self.segments = [group.segment for group in sources]
        self.phases = [group.phase for group in sources]
        self.area = part.window**2 // self.order.phases  # a group's tokens in a window
        relation, relations = _relations(sources, targets, part, self.order.phases)
        self.register_buffer("relation", relation, persistent=False)
        self.relation: Tensor
        self.embed = kit.linear([self.segment_channels], part.width)
        # The relative bias alone would not tell a token which segment it predicts.
        self.target = nn.Parameter(0.02 * torch.randn(len(sources), part.width))
        self.start = nn.Parameter(torch.zeros(part.width if part.sfg else self.segment_channels))
        self.blocks = nn.ModuleList(
            _Block(part, bool(layer % 2), len(sources) * self.area, relations, kit) for layer in range(part.layers)
        )
        self.norm = norm(part.norm, part.width, kit)
        self.networks = ParameterNetworks(
            [features, part.width],
            [*part.hidden, parameters * self.segment_channels],
            1 if part.shared_parameters else part.segments,
            part.activation,
            kit,
        )
        self._geometry: dict[tuple[int, int, torch.device], _Geometry] = {}

    def geometry(self, height: int, width: int, device: torch.device) -> _Geometry:
        """Return the geometry of a latent; the last one of a training crop's size is remembered."""
        index = (height, width, device)
        found = self._geometry.get(index)
        if found is None:
            found = _Geometry(self.order, height, width, self.part, device)
            if height * width <= _REMEMBERED:
                self._geometry = {index: found}
        return found

    def encode(
        self,
        values: Tensor,
        tokens: Sequence[int],
        geometry: _Geometry,
        caches: Sequence[_Cache] | None = None,
        past: Sequence[int] = (),
    ) -> Tensor:
        """Map the segment values (B, n, rows, slots, C) of the given tokens to contexts (B, n, rows, slots, d).

        `past`: the tokens whose keys and values the caches already hold.
        """
        keys = [*past, *tokens]
        every = self.relation.unflatten(0, (-1, self.area)).unflatten(2, (-1, self.area))
        # Stacked, since an index list would be copied to the device, which a captured step may not do.
        relation = torch.stack([every[token] for token in tokens])
        relation = torch.stack([relation[:, :, key] for key in keys], 2).flatten(2).flatten(0, 1)
        masks = [geometry.mask(shift, tokens, keys, self.phases) for shift in (False, True)]
        x = self.embed(values) + torch.stack([self.target[token] for token in tokens])[:, None, None]
        for index, block in enumerate(self.blocks):
            cache = caches[index] if caches is not None else None
            x = block(x, geometry, relation, masks[index % 2], cache)
        return self.norm(x)

    def place(self, values: Tensor, phase: int, geometry: _Geometry) -> Tensor:
        """Put a group's values (B, C, n) into slots (B, rows, slots, C); padding is zero."""
        rows, slots = geometry.size
        placed = values.new_zeros(len(values), rows * slots, values.shape[1])
        return placed.index_copy_(1, geometry.slots[phase], values.transpose(1, 2)).unflatten(1, (rows, slots))

    def predict(self, step: int, context: Tensor | None, features: Tensor, geometry: _Geometry) -> Tensor:
        """Return the parameters (B, P, C, n) of a group from its contexts (B, rows, slots, d); features (B, n, F)."""
        group = self.order.groups[step]
        if context is None:
            picked = self.start.expand(*features.shape[:2], -1)
        else:
            picked = context.flatten(1, 2).index_select(1, geometry.slots[group.phase])
        output: Tensor = self.networks(group.segment, features, picked)
        return output.transpose(1, 2).unflatten(1, (self.outputs, self.segment_channels))

    def forward(self, symbols: Tensor, features: Tensor) -> Tensor:
        """See `ContextModel`."""
        size = (symbols.shape[2], symbols.shape[3])
        predicted = dict(zip(self.order.groups, self.predictions(symbols, features), strict=True))
        places = self.geometry(*size, symbols.device).places
        segments = []
        for segment in range(self.order.segments):
            # Taken out, for the sake of memory.
            phases = [predicted.pop(Group(segment, phase)) for phase in range(self.order.phases)]
            segments.append(torch.cat(phases, -1).index_select(-1, places))
        return self.join(segments).to(symbols.dtype).unflatten(-1, size)

    def single_pass(self, symbols: Tensor, features: Tensor) -> Known:
        """See `ContextModel`."""
        return Known(self.predictions(symbols, features))

    def predictions(self, symbols: Tensor, features: Tensor) -> list[Tensor]:
        """Return each group's parameters (B, P, C, n), in coding order; those of a group see earlier groups alone."""
        batch, _, height, width = symbols.shape
        geometry = self.geometry(height, width, symbols.device)
        positions = geometry.positions
        first = [] if self.part.sfg else [self.start.expand(batch, *geometry.size, -1)]
        placed = [
            self.place(self.take(group, symbols, positions), group.phase, geometry) for group in self.order.groups[:-1]
        ]
        contexts = self.encode(torch.stack(first + placed, 1), self.tokens, geometry)
        tokens = geometry.by_phase(features)
        lead = len(self.order.groups) - len(self.tokens)
        return [
            self.predict(step, contexts[:, step - lead] if step >= lead else None, tokens[group.phase], geometry)
            for step, group in enumerate(self.order.groups)
        ]

    def walk(self, features: Tensor) -> Walk:
        """See `ContextModel`."""
        return _EContextformerWalk(self, features)


class _EContextformerWalk(Walk):
    def __init__(self, model: EContextformer, features: Tensor) -> None:
        batch, _, height, width = features.shape
        self.model = model
        self.geometry = model.geometry(height, width, features.device)
        self.features = self.geometry.by_phase(features)
        self.values: list[Tensor] = []
        if not model.part.sfg:
            self.values.append(model.start.expand(batch, *self.geometry.size, -1))
        capacity = len(model.tokens) * model.area
        self.caches = [_Cache(capacity) for _ in model.blocks]

    def predict(self, step: int) -> Tensor:
        features = self.features[self.model.order.groups[step].phase]
        context = self._context() if self.values else None
        return self.model.predict(step, context, features, self.geometry)

    def update(self, step: int, symbols: Tensor) -> None:
        group = self.model.order.groups[step]
        if len(self.values) < len(self.model.tokens):
            self.values.append(self.model.place(symbols.to(self.features[0].dtype), group.phase, self.geometry))

    def _context(self) -> Tensor:
        """Run the network on the newest token's group, or on more when an optimisation is off."""
        part, token = self.model.part, len(self.values) - 1
        if part.cache:
            values = self.values[-1].unsqueeze(1)
            return self.model.encode(values, [token], self.geometry, self.caches, range(token))[:, 0]
        tokens = list(range(token + 1))
        if not part.egr:
            touched = {self.model.segments[index] for index in tokens}
            tokens += [index for index in self.model.tokens[token + 1 :] if self.model.segments[index] in touched]
        empty = torch.zeros_like(self.values[-1])
        values = torch.stack([self.values[index] if index <= token else empty for index in tokens], 1)
        return self.model.encode(values, tokens, self.geometry)[:, token]


def _column(row: Tensor, slot: Tensor, phase: Tensor | int, phases: int) -> Tensor:
    """Return the column of the position in a slot of a row."""
    return phases * slot + (row + phase) % phases


def _relations(
    sources: Sequence[Group], targets: Sequence[Group], part: config.EContextformer, phases: int
) -> tuple[Tensor, int]:
    """Return each (token, key) pair's index (tokens * S, tokens * S) into the bias table, and the table's length."""
    k = part.window
    row = torch.arange(k).repeat_interleave(k // phases)
    slot = torch.arange(k // phases).repeat(k)

    def places(groups: Sequence[Group]) -> tuple[Tensor, Tensor, Tensor]:
        segment = torch.tensor([group.segment for group in groups]).repeat_interleave(len(row))
        phase = torch.tensor([group.phase for group in groups]).repeat_interleave(len(row))
        rows = row.repeat(len(groups))
        return segment, rows, _column(rows, slot.repeat(len(groups)), phase, phases)

    differences = [a[:, None] - b[None, :] for a, b in zip(places(targets), places(sources), strict=True)]
    extents = [2 * part.segments, 2 * k - 1, 2 * k - 1]
    origins = [part.segments - 1, k - 1, k - 1]
    index = torch.zeros_like(differences[0])
    for difference, extent, origin in zip(differences, extents, origins, strict=True):
        index = index * extent + difference + origin
    return index, extents[0] * extents[1] * extents[2]
