"""What a model is made of, as data: one dataclass a part, and the registry of named models.

A model is a `ModelConfig` that names one part of each sort. Configs are plain values: they are written into the
weights file as JSON, so that weights can be loaded without knowing where they came from.
"""

import dataclasses
import json
from dataclasses import dataclass, field, replace
from typing import Any

from vitrail.errors import ModelError


@dataclass(frozen=True)
class ConvTransform:
    """The paper's transforms (arXiv 2306.14287, after Cui et al. 2021): strided 3x3 convolutions, GDN, attention."""

    width: int = 192


@dataclass(frozen=True)
class LightTransform:
    """Residual 3x3 blocks at 1/4, 1/8 and 1/16, with these widths, around a linear 16x16 transform; fast on a CPU.

    `synthesis_blocks`: the synthesis's, where they are not `blocks`.
    """

    widths: tuple[int, int, int] = (96, 144, 160)
    blocks: tuple[int, int, int] = (1, 2, 1)
    synthesis_blocks: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class AGWinT:
    """Local and aggregated-window attention (MCDH, arXiv 2309.10799; an interpretation, see the module).

    `pairs`: pairs of a local and an aggregated block in each stage; `reading`: global, pooled or shifted; `linear`:
    with a linear 16x16 transform beside it (patch 4 alone).
    """

    patch: int = 2
    widths: tuple[int, int, int] = (128, 192, 256)
    pairs: tuple[int, int, int] = (1, 1, 3)
    window: int = 8
    head: int = 32
    mlp: int = 4
    reading: str = "global"
    linear: bool = False


@dataclass(frozen=True)
class ConvHyperprior:
    """The paper's hyperprior: stride-1 and stride-2 convolutions of one kernel size; features are 2M channels."""

    width: int = 192
    kernel: int = 5


@dataclass(frozen=True)
class LightHyperprior:
    """3x3 convolutions at 1/16 and 1/32, 2x2 strided ones between; every layer has an exact integer form.

    `hidden` is the width of the analysis up to z, None for that of z.
    """

    width: int = 96
    features: int = 336
    hidden: int | None = None


@dataclass(frozen=True)
class DualHyperprior:
    """A channel-aware and a spatial-aware half (MCDH, arXiv 2309.10799); `width` is that of each half.

    `halves` may name one alone; its width is then to be doubled, so that the side information stays comparable.
    """

    width: int = 96
    features: int = 384
    halves: tuple[str, ...] = ("channel", "spatial")


@dataclass(frozen=True)
class NoContext:
    """Parameters from the hyperprior alone: a single group."""

    hidden: tuple[int, ...] = (336,)


@dataclass(frozen=True)
class CheckerboardContext:
    """Channel segments x checkerboard by convolutions, the field's usual context model (after ELIC, CVPR 2022)."""

    segments: int = 4
    order: str = "sfo"
    kernel: int = 3
    width: int = 128
    hidden: tuple[int, ...] = (192, 160)


@dataclass(frozen=True)
class EContextformer:
    """Spatio-channel window attention (arXiv 2306.14287, section III).

    `checkered`: two groups a segment; without, one: its positions do not see one another, and `order` has no meaning.
    `interleaved`: segment s has channels s, s + `segments`, … (see `contexts.base`); without, they lie side by side.
    `sfg`: the first group is coded from the hyperprior alone; without it a start token is processed instead.
    `egr`: a step processes coding groups; without it, every segment that it touches, whole.
    `cache`: keys and values of earlier groups are kept; without it every step processes all groups again.
    `egr` and `cache` change the cost alone, never a parameter.
    `attention`: spatio-channel, or channel: a slot's tokens see one another alone. One segment is spatial attention.
    """

    segments: int = 4
    order: str = "sfo"
    width: int = 384
    layers: int = 8
    heads: int = 12
    mlp: int = 4
    window: int = 8
    norm: str = "layer"
    activation: str = "gelu"
    hidden: tuple[int, ...] = (704, 640)
    shared_parameters: bool = True
    interleaved: bool = False
    checkered: bool = True
    sfg: bool = True
    egr: bool = True
    cache: bool = True
    attention: str = "spatio-channel"


@dataclass(frozen=True)
class Contextformer:
    """The serial baseline: a sliding window of `window` x `window` positions, nothing kept between steps (2022)."""

    segments: int = 4
    order: str = "cfo"
    width: int = 384
    layers: int = 8
    heads: int = 12
    mlp: int = 4
    window: int = 16
    norm: str = "layer"
    activation: str = "gelu"
    hidden: tuple[int, ...] = (704, 640)


@dataclass(frozen=True)
class MCDHContext:
    """A local context, and a global one by attention over earlier positions (MCDH, arXiv 2309.10799).

    `order`: raster, or checkerboard in two steps; `tile`: positions a side that the global context spans.
    """

    order: str = "checkerboard"
    width: int = 192
    heads: int = 4
    hidden: tuple[int, ...] = (640, 512)
    tile: int = 64
    local_context: bool = True
    global_context: bool = True


@dataclass(frozen=True)
class Gaussian:
    """One mean and scale an element; the density is more peaked than a Gaussian (see `distributions`)."""


@dataclass(frozen=True)
class Mixture:
    """A mixture of Gaussians an element (the paper's km)."""

    components: int = 3


@dataclass(frozen=True)
class Trellis:
    """What is wide enough is quantised together, by a code of 2^registers states, `lane` elements in a row.

    Each register more takes the search twice the time, and saves less than the one before (see `trellis`).
    """

    registers: int = 8
    lane: int = 256


Transform = ConvTransform | LightTransform | AGWinT
Hyperprior = ConvHyperprior | LightHyperprior | DualHyperprior
Context = NoContext | CheckerboardContext | EContextformer | Contextformer | MCDHContext
Distribution = Gaussian | Mixture

_PARTS: dict[str, type] = {
    part.__name__: part
    for part in (
        ConvTransform,
        LightTransform,
        AGWinT,
        ConvHyperprior,
        LightHyperprior,
        DualHyperprior,
        NoContext,
        CheckerboardContext,
        EContextformer,
        Contextformer,
        MCDHContext,
        Gaussian,
        Mixture,
        Trellis,
    )
}


@dataclass(frozen=True)
class ModelConfig:
    """One of each part; `latents` is M, the channels of y; `lambdas` the ends of the quality scale (see `rate`).

    `centroid`: a symbol stands for the mean of what is rounded to it, by the context's distribution; else for itself.
    `exact`: the entropy path computes the same on every machine (see `exact`); else the model is for research.
    `trellis`: elements of y are quantised together, or, without one, each alone; of exact models with centroids alone.
    `post_filters`: how many directions a picture's own filter behind the synthesis has (see `postfilter`), or 0.
    """

    name: str
    transform: Transform
    hyperprior: Hyperprior
    context: Context
    distribution: Distribution = field(default_factory=Gaussian)
    latents: int = 192
    lambdas: tuple[float, float] = (0.00025, 0.06)
    centroid: bool = False
    exact: bool = False
    trellis: Trellis | None = None
    post_filters: int = 0

    def to_json(self) -> str:
        """Return the config as JSON text; a part is an object with its class under "kind"."""
        values: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            is_part = dataclasses.is_dataclass(value)
            values[item.name] = {"kind": type(value).__name__, **dataclasses.asdict(value)} if is_part else value
        return json.dumps(values)

    @staticmethod
    def from_json(text: str) -> "ModelConfig":
        """Read what `to_json` wrote. Raises `ModelError` for parts or settings that this version does not know."""
        try:
            return ModelConfig(**{name: _value(value) for name, value in json.loads(text).items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"the model's config is not one this version knows ({error}); update Vitrail") from error


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        settings = {name: _value(item) for name, item in value.items() if name != "kind"}
        return _PARTS[value["kind"]](**settings)
    return tuple(value) if isinstance(value, list) else value


_SMALL_CONTEXT = EContextformer(
    width=128,
    layers=2,
    heads=4,
    mlp=2,
    norm="l1",
    activation="leaky",
    hidden=(192, 160),
    shared_parameters=False,
    interleaved=True,
)

_SMALL = ModelConfig(
    "econtextformer-s",
    LightTransform(blocks=(1, 2, 0), synthesis_blocks=(1, 2, 1)),
    LightHyperprior(features=464),
    _SMALL_CONTEXT,
    latents=384,
    centroid=True,
    exact=True,
    trellis=Trellis(),
    post_filters=48,
)


_SMALL_AGWINT = AGWinT(patch=4, widths=(64, 128, 160), pairs=(1, 2, 1), mlp=2, linear=True)

_SMALL_MCDH_CONTEXT = MCDHContext(width=96, heads=3, hidden=(256, 192))
_SMALL_MCDH = ModelConfig(
    "mcdh-s",
    _SMALL_AGWINT,
    DualHyperprior(64, 384),
    _SMALL_MCDH_CONTEXT,
    latents=256,
    centroid=True,
    exact=True,
    trellis=Trellis(),
)

_PAPER = ModelConfig("econtextformer", ConvTransform(), ConvHyperprior(), EContextformer(), Mixture())


def _variant(base: ModelConfig, suffix: str, **settings: Any) -> ModelConfig:
    """Return a config with other settings of its context model."""
    return replace(base, name=f"{base.name}-{suffix}", context=replace(base.context, **settings))


CONFIGS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        _SMALL,
        replace(_SMALL, name="checkerboard-s", context=CheckerboardContext(width=96)),
        replace(_SMALL, name="hyperprior-s", context=NoContext()),
        _SMALL_MCDH,
        ModelConfig("agwint-s", _SMALL_AGWINT, LightHyperprior(), _SMALL_CONTEXT, latents=192, exact=True),
        # For a GPU: 14.9 million parameters.
        ModelConfig(
            "econtextformer-m",
            LightTransform((128, 192, 256), (5, 2, 0), (5, 2, 2)),
            LightHyperprior(128, 576, hidden=112),
            replace(_SMALL_CONTEXT, width=192, layers=4, heads=6, hidden=(320, 256)),
            latents=448,
            centroid=True,
            exact=True,
            trellis=Trellis(12, 1024),
            post_filters=48,
        ),
        _PAPER,
        _variant(_PAPER, "whole", checkered=False),
        _variant(_PAPER, "nocache", cache=False),
        _variant(_PAPER, "nosfg", sfg=False),
        _variant(_PAPER, "noegr", egr=False, cache=False),
        _variant(_PAPER, "plain", sfg=False, egr=False, cache=False),
        _variant(_PAPER, "global", window=32),  # one window on 512 x 512 pixels
        ModelConfig("contextformer", ConvTransform(), ConvHyperprior(kernel=3), Contextformer(), Mixture()),
        ModelConfig("mcdh", AGWinT(), DualHyperprior(), MCDHContext()),
        # What eContextformer's choices are worth.
        _variant(_SMALL, "k4", window=4),
        _variant(_SMALL, "k16", window=16),
        _variant(_SMALL, "cfo", order="cfo"),
        _variant(_SMALL, "n1", segments=1),
        _variant(_SMALL, "n2", segments=2),
        _variant(_SMALL, "n8", segments=8),
        _variant(_SMALL, "channel", attention="channel"),
        _variant(_SMALL, "whole", checkered=False),
        replace(_SMALL, name="econtextformer-s-midpoints", centroid=False, trellis=None),
        replace(_SMALL, name="econtextformer-s-mixture", distribution=Mixture(), exact=False, trellis=None),
        # The MCDH paper's ablations.
        replace(_SMALL_MCDH, name="mcdh-s-swin", transform=replace(_SMALL_AGWINT, reading="shifted")),
        replace(_SMALL_MCDH, name="mcdh-s-spatial", hyperprior=DualHyperprior(128, 384, ("spatial",))),
        replace(_SMALL_MCDH, name="mcdh-s-channel", hyperprior=DualHyperprior(128, 384, ("channel",))),
        replace(_SMALL_MCDH, name="mcdh-s-local", context=replace(_SMALL_MCDH_CONTEXT, global_context=False)),
    )
}

ABLATIONS: dict[str, tuple[str, ...]] = {
    "econtextformer-ablations": (
        "econtextformer-s",
        "econtextformer-s-k4",
        "econtextformer-s-k16",
        "econtextformer-s-cfo",
        "econtextformer-s-n1",
        "econtextformer-s-n2",
        "econtextformer-s-n8",
        "econtextformer-s-channel",
        "econtextformer-s-whole",
        "econtextformer-s-mixture",
        "checkerboard-s",
        "hyperprior-s",
    ),
    "mcdh-ablations": (
        "mcdh-s",
        "mcdh-s-swin",
        "mcdh-s-spatial",
        "mcdh-s-channel",
        "mcdh-s-local",
        "agwint-s",
        "econtextformer-s",
    ),
}


def named(name: str) -> ModelConfig:
    """Return a registered config. Raises `ModelError` for an unknown name."""
    if name not in CONFIGS:
        raise ModelError(f"no config is called {name!r}; there are {', '.join(CONFIGS)}")
    return CONFIGS[name]
