"""Arithmetic whose results are the same on every machine.

Floating point differs between machines in two ways: sums depend on their order, which kernels choose by processor,
thread count and batch; and library functions (exp, sqrt, …) are not correctly rounded. So, between the bitstream and
a table's number:

1. **Reductions are sums of integers.** Before a matrix product or a sum, operands are rounded to multiples of a power
   of two (`Grid`), at most `levels` of them; weights likewise, row by row. Every partial sum is then a whole number of
   the product of the two steps, and `levels` is such that it stays below 2^24 of them whatever the weights: float32
   holds each partial sum exactly, in any order, with or without fused multiply-add.
2. **Elementwise operations are IEEE's.** Only + - * / round, clamp, comparisons and conversions, each a kernel of its
   own, so that none is fused; never a division by a Python number, which a GPU turns into a multiplication.
3. **The exponential is a bit pattern** (`weigh`).
4. **Convolutions are matrix products** over shifted views: a library's convolution may be computed by Winograd's or
   Fourier's way, whose intermediate values are not integers.
5. **A user's settings cannot interfere**: `guard` switches off autocast and reduced-precision products.

The same layers run in training, with straight-through gradients: what is trained is what ships. They have the
parameters of their float counterparts (`vitrail.layers`), so that either can continue from the other's weights.
"""

from vitrail.exact.grid import Grid, levels, pack, unpack
from vitrail.exact.layers import LARGEST_WEIGHT, Conv2d, L1Norm, Linear, OnGrids, Up2x2, guard, mix, weigh

__all__ = [
    "LARGEST_WEIGHT",
    "Conv2d",
    "Grid",
    "L1Norm",
    "Linear",
    "OnGrids",
    "Up2x2",
    "guard",
    "levels",
    "mix",
    "pack",
    "unpack",
    "weigh",
]
