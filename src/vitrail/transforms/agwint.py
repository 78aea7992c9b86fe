"""AGWinT: transforms of local and aggregated-window attention (MCDH, arXiv 2309.10799).

The paper's figures are not public, so this is an interpretation. Three stages, each of pairs of blocks: attention
within windows, then a block that brings the whole feature map into every window. How it does so has three readings:

    global    a window of query tokens, computed from the whole map, attends to each window's keys and values
              (GCViT's form, the likeliest one of "global query patches from the entire feature map")
    pooled    a window's queries attend to its own tokens and to pooled tokens of the whole map
    shifted   none: windows shifted by half, the plain Swin block, which the paper compares with

With `linear` set, a linear block transform stands beside it, as in the light transforms (`transforms.around`).

    x --patches--> stage --down 2--> stage --down 2--> stage --to 1/16, M channels--> y      synthesis mirrors it
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from vitrail import config
from vitrail.errors import ModelError
from vitrail.layers import FLOAT, add, mlp
from vitrail.rate import QualityTable
from vitrail.transforms.around import AroundLinear
from vitrail.transforms.linear import start_from_nothing
from vitrail.windows import Windows, relations, relative_bias

READINGS = ("global", "pooled", "shifted")
# Pooled tokens a side: however large the picture, a window has 64 keys more.
_POOLED = 8


class _Attention(nn.Module):
    """Attention of w * w queries to w * w keys with a learned relative bias, and to further keys without one."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relation", relations(window), persistent=False)
        self.relation: Tensor

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor | None, further: Tensor | None) -> Tensor:
        """Attend; queries and tokens (n, w * w, C), mask (windows, 1, w * w, w * w), further (n, m, C)."""
        bias = relative_bias(self.bias, self.relation)[None]
        if mask is not None:
            bias = (bias + mask).repeat(len(tokens) // len(mask), 1, 1, 1)
        if further is not None:
            tokens = torch.cat([tokens, further], 1)
            bias = functional.pad(bias, (0, further.shape[1]))
        q = self.query(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, bias.to(q.dtype))
        return self.project(attended.transpose(1, 2).flatten(2))


class _Queries(nn.Module):
    """Global query tokens (B, w * w, C) of a map: two steps of extraction and pooling, then one of w x w means."""

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.extract = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.GELU()) for _ in range(2)
        )
        self.excite = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, width), nn.Sigmoid())
            for _ in range(2)
        )
        self.project = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to queries."""
        for extract, excite, project in zip(self.extract, self.excite, self.project, strict=True):
            y = extract(x)
            x = x + project(y * excite(y.mean((2, 3)))[:, :, None, None])
            x = functional.max_pool2d(x, 3, 2, 1)
        return functional.adaptive_avg_pool2d(x, self.window).flatten(2).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, part: config.AGWinT, width: int, reading: str | None) -> None:
        super().__init__()
        self.window, self.reading = part.window, reading
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, width // part.head, part.window)
        self.mlp = mlp([width], [part.mlp * width, width], "gelu", FLOAT)

    def forward(self, x: Tensor, queries: Tensor | None) -> Tensor:
        """Map x (B, H, W, C), in its place without a gradient; queries (B, w * w, C) are for the global reading."""
        windows = Windows(x.shape[1], x.shape[2], self.window, self.reading == "shifted", x.device)
        normed = self.norm1(x)
        tokens = windows.cut(normed)
        count = len(tokens) // len(x)
        asking, further = tokens, None
        if self.reading == "global" and queries is not None:
            asking = queries.repeat_interleave(count, 0)
        if self.reading == "pooled":
            pooled = functional.adaptive_avg_pool2d(normed.permute(0, 3, 1, 2), _POOLED).flatten(2).transpose(1, 2)
            further = pooled.repeat_interleave(count, 0)
        x = add(x, windows.join(self.attention(asking, tokens, windows.mask, further)))
        return add(x, self.mlp(self.norm2(x)))


class _Stage(nn.Module):
    def __init__(self, part: config.AGWinT, width: int, pairs: int) -> None:
        super().__init__()
        self.scale = QualityTable(width)
        self.queries = _Queries(width, part.window) if part.reading == "global" else None
        readings = [None, part.reading] * pairs
        self.blocks = nn.ModuleList(_Block(part, width, reading) for reading in readings)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        x = x * self.scale(quality).exp()
        queries = self.queries(x) if self.queries is not None else None
        x = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x, queries)
        return x.permute(0, 3, 1, 2)


def _down(inputs: int, outputs: int, factor: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, 2, 1) if factor == 2 else nn.Conv2d(inputs, outputs, 1)


def _up(inputs: int, outputs: int, factor: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs * factor**2, 1), nn.PixelShuffle(factor))


class AGWinT(AroundLinear):
    """See the module's text; windows that a picture's border cuts are padded, and padding is never attended to."""

    def __init__(self, part: config.AGWinT, latents: int) -> None:
        super().__init__()
        last = 16 // (4 * part.patch)
        if part.patch not in (2, 4) or any(width % part.head for width in part.widths) or part.reading not in READINGS:
            raise ModelError(
                f"AGWinT needs patch 2 or 4, widths that are multiples of the head's, and a reading of {READINGS}"
            )
        if part.linear and part.patch != 4:
            raise ModelError("AGWinT beside a linear path needs patch 4")
        first, *others = part.widths
        self.encoder = nn.ModuleList(
            [
                nn.Conv2d(3, first, part.patch, part.patch),
                *self._steps(part.widths, _down),
                _down(others[-1], latents, last),
            ]
        )
        self.decoder = nn.ModuleList(
            [_up(latents, others[-1], last), *self._steps(part.widths[::-1], _up), _up(first, 3, part.patch)]
        )
        self.encoder_stages, self.decoder_stages = (
            nn.ModuleList(_Stage(part, *sizes) for sizes in zip(widths, pairs, strict=True))
            for widths, pairs in ((part.widths, part.pairs), (part.widths[::-1], part.pairs[::-1]))
        )
        self.linear = None
        if part.linear:
            self.surround(latents, first, others[0])
            start_from_nothing(self.encoder[-1], self.decoder[-1])

    @staticmethod
    def _steps(widths: Sequence[int], step: Callable[[int, int, int], nn.Module]) -> list[nn.Module]:
        return [step(a, b, 2) for a, b in pairwise(widths)]

    def down(self, index: int, x: Tensor, quality: Tensor) -> Tensor:
        """See `AroundLinear`."""
        return self.encoder_stages[index](self.encoder[index](x), quality)

    def to_latent(self, x: Tensor) -> Tensor:
        """See `AroundLinear`."""
        return self.encoder[-1](x)

    def up(self, index: int, x: Tensor, quality: Tensor) -> Tensor:
        """See `AroundLinear`."""
        return self.decoder[index](x)

    def finish(self, index: int, x: Tensor, quality: Tensor) -> Tensor:
        """See `AroundLinear`."""
        return self.decoder_stages[index](x, quality)

    def to_picture(self, x: Tensor) -> Tensor:
        """See `AroundLinear`."""
        return self.decoder[-1](x)
