"""A model: parts composed, and the one traversal that encodes, decodes and estimates.

    x --analysis--> y * gain --/ usual scale, hyper-analysis--> z --round--> z_hat --hyper-synthesis--> features
    symbols = round(y * gain - mean)          the mean is the first M features: known before the first group
    for group in order:                       the coder writes the symbols, or reads them, or counts their bits
        parameters = walk.predict(group)
        tables = distribution.choose(parameters, usual_scale)
        symbols[group] = distribution.code(coder, tables, symbols[group])
        values[group] = distribution.reconstruct(tables, symbols[group])
        walk.update(group, symbols[group])    with a trellis: the points that they name
    y_hat = (values + mean) / gain --synthesis--> x_hat --the picture's own filter--> x_hat

What is rounded is the residual to the hyperprior's mean, never to the context's: so the symbols are known before the
context model runs, and one masked pass over them is exact in training (docs/design.md, "What is rounded"). A trellis
takes the distribution's place where files are coded, and decides in the loop what the symbols are.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vitrail import contexts, distributions, hyperpriors, rate, transforms
from vitrail.coding import LIMIT, RangeDecoder, RangeEncoder, SymbolCoder
from vitrail.config import Contextformer, ConvHyperprior, EContextformer, Mixture, ModelConfig
from vitrail.contexts.base import Known, Recorder, Walk
from vitrail.errors import ModelError
from vitrail.exact import guard
from vitrail.layers import EXACT, FLOAT
from vitrail.postfilter import PostFilter
from vitrail.precision import autocast
from vitrail.prior import Prior
from vitrail.straight import round_through
from vitrail.threads import one_thread
from vitrail.trellis import Trellis

STRIDE = 16
HYPER_STRIDE = 4


class Likelihoods(NamedTuple):
    """Probabilities of the elements of y (B, M, h, w) and z (B, N, a, b)."""

    y: Tensor
    z: Tensor


class Output(NamedTuple):
    """x_hat (B, 3, H, W), and the bits of every element of y and z."""

    x_hat: Tensor
    y_bits: Tensor
    z_bits: Tensor

    @property
    def likelihoods(self) -> Likelihoods:
        """Probabilities in place of bits, as the field's evaluation code expects."""
        return Likelihoods(torch.exp2(-self.y_bits), torch.exp2(-self.z_bits))


Integers = NDArray[np.int32]
Place = tuple[slice, NDArray[np.int64]]


class Latents(NamedTuple):
    """Integers of one picture: y (M, h, w), z (N, a, b) and its `filter` (K,) (see `postfilter`), int32.

    What follows from them at the quality and on the device that they were made for, where it is known already:
    `features` (1, F, h, w) and `walk`, of an exact model what z gives and then the context model; `values` (M, h, w),
    float32, what y stands for. Leave them away when any of these changes.
    """

    y: Integers
    z: Integers
    features: Tensor | None = None
    walk: Known | None = None
    values: NDArray[np.float32] | None = None
    filter: Integers | None = None


class Compressed(TypedDict):
    """What `Model.compress` returns, in the field's usual shape."""

    strings: list[bytes]
    shape: tuple[int, int]
    quality: int


class Model(nn.Module):
    """A learned image codec built from a config. Freshly built it is untrained; `load` gives shipped weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.identity: bytes | None = None  # of the weights file that it was loaded from
        m = config.latents
        self.transform = transforms.build(config.transform, m)
        kit = EXACT if config.exact else FLOAT
        if config.exact:
            _require_exact(config)
        self.hyperprior = hyperpriors.build(config.hyperprior, m, kit)
        if config.trellis and (isinstance(config.distribution, Mixture) or not config.centroid):
            raise ModelError("a trellis needs the distribution Gaussian and centroids; set trellis=None")
        features = self.hyperprior.features
        if self.hyperprior.features < m:
            raise ModelError(f"the hyperprior's {self.hyperprior.features} features must hold a mean for {m} latents")
        self.distribution = distributions.build(config.distribution, config.centroid)
        self.context = contexts.build(config.context, m, features, self.distribution.per_element, kit)
        self.prior = Prior(self.hyperprior.channels)
        self.trellis = Trellis(m, config.trellis) if config.trellis else None
        self.post_filter = PostFilter(config.post_filters) if config.post_filters else None
        self.log_gain = rate.QualityTable(m)
        self.log_inverse_gain = rate.QualityTable(m)
        self.condition = rate.QualityTable(features)
        self.usual_scale = rate.QualityTable(m)  # exponents; the context's are relative to them
        # At high rates the best step falls with the square root of lambda: ln 2 lambda 255^2 step^2 = 18.
        steps = (18 / (np.log(2) * 255**2 * self.lambdas(torch.linspace(1, 100, rate.KNOTS)))) ** 0.5
        with torch.no_grad():
            self.log_gain.table.copy_(-steps.log()[:, None])
            self.log_inverse_gain.table.copy_(steps.log()[:, None])
            self.usual_scale.table.fill_(float(distributions.exponents(torch.tensor(1.0))))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.log_gain.table.device

    @property
    def own_filter(self) -> PostFilter | None:
        """The post-filter whose numbers files hold: None if the weights know no directions."""
        own = self.post_filter
        return own if own is not None and bool(own.taps.any()) else None

    @property
    def own_trellis(self) -> Trellis | None:
        """The trellis that files are coded with: None if it was not fitted, or the model is not exact."""
        own = self.trellis
        return own if own is not None and self.config.exact and bool(own.table_masses.any()) else None

    @property
    def _gaussian(self) -> distributions.Gaussian:
        assert isinstance(self.distribution, distributions.Gaussian)
        return self.distribution

    def lambdas(self, quality: Tensor) -> Tensor:
        """Return the Lagrangian multipliers of qualities 1..100 (see `rate`)."""
        low, high = self.config.lambdas
        ratio: Tensor = (high / low) ** rate.position(quality)
        return low * ratio

    def train(self, mode: bool = True) -> "Model":
        """Switch training on or off; a model that was trained is no longer the one of its weights file."""
        if mode:
            self.identity = None
        return super().train(mode)

    # -- the two halves of the way -------------------------------------------------------------------------------

    def analyse(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (B, 3, H, W), any size, at qualities (B,) to scaled y (B, M, h, w) and z (B, N, a, b), not rounded."""
        y = self.transform.analysis(_pad(x, STRIDE), quality) * self.log_gain(quality).exp()
        spread = distributions.scales(self.usual_scale(quality))
        return y, self.hyperprior.analysis(_pad(y / spread, HYPER_STRIDE))

    def features(self, z_hat: Tensor, quality: Tensor, size: tuple[int, int]) -> Tensor:
        """Map z_hat (B, N, a, b) to features (B, F, h, w); the first M are the mean of y."""
        return (self.hyperprior.synthesis(z_hat.float()) + self.condition(quality))[:, :, : size[0], : size[1]]

    def synthesise(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """Map scaled y_hat (B, M, h, w) at qualities (B,) to x_hat (B, 3, 16 h, 16 w)."""
        return self.transform.synthesis(y_hat * self.log_inverse_gain(quality).exp(), quality)

    # -- training ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit(self, patches: Tensor) -> None:
        """Start as a plain transform codec: principal components of patches (N, 3, 16, 16), and their usual scales.

        A transform without a linear path stays as it is.
        """
        linear = self.transform.linear
        if linear is None:
            return
        linear.fit(patches)
        y = linear.to_latent(patches - 0.5).flatten(1)
        self.usual_scale.table.copy_(usual_exponents(y, self.log_gain.table))

    def forward(self, x: Tensor, quality: Tensor | float = 50) -> Output:
        """Code and reconstruct x (B, 3, H, W) in 0..1 at qualities (B,) without writing bytes.

        Bits of y are those of the rounded values, and where no gradient is asked for, those that the tables of a file
        give: a trellis decides then what y is rounded to, elsewhere each element is rounded alone. In training mode the
        gradient of bits to y is that of values with uniform noise, and z's bits are of such values.
        """
        quality = torch.as_tensor(quality, dtype=torch.float32, device=x.device).expand(len(x))
        output = self.estimate(*self.analyse(x, quality), quality)
        return output._replace(x_hat=output.x_hat[:, :, : x.shape[2], : x.shape[3]])

    def estimate(self, y: Tensor, z: Tensor, quality: Tensor) -> Output:
        """Do the rest of `forward` with what `analyse` gave; the picture has whole blocks."""
        differentiable = self.training or torch.is_grad_enabled()
        if not differentiable and self.own_trellis is not None:
            return self._told(y, z, quality)
        z_hat = round_through(z)
        with self.arithmetic():
            features = self.features(z_hat, quality, (y.shape[2], y.shape[3]))
            mean = features[:, : self.config.latents]
            residual = y - mean
            symbols = round_through(residual)
            parameters = self.context(symbols, features).float()
            usual = self.usual_scale(quality)
        z_bits = self.prior.bits(self._noisy(z, z_hat), z_hat)
        if differentiable:
            y_bits = self._differentiable_bits(residual, symbols, parameters, usual)
            values = self.distribution.reconstruct_through(symbols, residual, parameters, usual)
        else:
            chosen, numbers = self._as_coded(symbols, parameters, usual)
            values = torch.from_numpy(self.distribution.reconstruct(chosen, numbers)).to(y.device).view(y.shape)
            y_bits = torch.from_numpy(self.distribution.count(chosen, numbers)).to(y.device).view(y.shape)
        return Output(self.synthesise(values + mean, quality), y_bits, z_bits)

    def _differentiable_bits(self, residual: Tensor, symbols: Tensor, parameters: Tensor, usual: Tensor) -> Tensor:
        """Return bits whose gradient goes to the parameters, and to what was rounded.

        Parameters learn from what is coded: noise would teach them that narrow Gaussians are wider.
        """
        if not self.training:
            return self.distribution.bits(symbols, parameters, usual)
        coded = self.distribution.bits(symbols.detach(), parameters, usual)
        noisy = self.distribution.bits(self._noisy(residual, symbols), parameters.detach(), usual.detach())
        return coded + noisy - noisy.detach()

    def _told(self, y: Tensor, z: Tensor, quality: Tensor) -> Output:
        """Do as `estimate` by what files hold: the trellis decides one picture after another."""
        values, bits = zip(
            *(self._told_one(*each) for each in zip(y.split(1), z.split(1), quality.split(1), strict=True)), strict=True
        )
        z_hat = z.round()
        return Output(self.synthesise(torch.cat(values), quality), torch.cat(bits), self.prior.bits(z_hat, z_hat))

    def _told_one(self, y: Tensor, z: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Return y_hat and the bits of y, both (1, M, h, w)."""
        trellis, latents = self.own_trellis, self.quantised(y, z, quality)
        assert trellis is not None
        bits = self._look(latents, quality, lambda chosen, symbols: trellis.count(self._gaussian, chosen, symbols))
        return self.dequantise(latents, int(quality)), torch.from_numpy(bits).to(y.device)[None]

    def arithmetic(self) -> AbstractContextManager[object]:
        """Return the settings under which the entropy path computes; exact layers are not left to autocast."""
        if not self.config.exact:
            return nullcontext()
        return torch.autocast(self.device.type, enabled=False) if self.training else guard()

    def _noisy(self, values: Tensor, rounded: Tensor) -> Tensor:
        if not self.training:
            return rounded.float()
        return values.float() + torch.rand_like(values, dtype=torch.float32) - 0.5

    def in_floats(self) -> "Model":
        """Return this model with float layers and the same parameters: faster to differentiate, not exact."""
        plain = Model(replace(self.config, exact=False))
        plain.load_state_dict(self.state_dict(), strict=False)  # an exact model has grids too
        if plain.trellis is not None:  # what is trained on needs another
            plain.trellis.table_masses.zero_()
        return plain.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    # -- coding --------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Compute the integer tables; do so once, after training."""
        self.prior.freeze()
        self.distribution.freeze()

    def latents(self, x: Tensor, quality: int) -> Latents:
        """Return the integers that a file of x (1, 3, H, W) at this quality holds, but for its filter."""
        return self.quantised(*self.targets(x, quality), _quality(quality, x))

    @torch.no_grad()
    def targets(self, x: Tensor, quality: int) -> tuple[Tensor, Tensor]:
        """Return what is quantised of x (1, 3, H, W): y (1, M, h, w) and z (1, N, a, b)."""
        with autocast(self.device):  # costs 0.02 % of the loss at most
            y, z = (each.float() for each in self.analyse(x, _quality(quality, x)))
        return y, z

    @torch.no_grad()
    def quantised(self, y: Tensor, z: Tensor, quality: Tensor) -> Latents:
        """Return the integers of y and z at a quality (1,): each rounded, or on the best path of the trellis."""
        z_hat, size = z.round().clamp(-LIMIT, LIMIT), (y.shape[2], y.shape[3])
        with self.arithmetic():
            features = self.features(z_hat, quality, size)
            residual = (y - features[:, : self.config.latents])[0]
        if (trellis := self.own_trellis) is None:
            return Latents(_integers(residual), _integers(z_hat[0]), self._kept(features))
        wanted = residual.flatten(1).cpu().numpy()
        coded, values = np.zeros(wanted.shape, np.int32), np.zeros(wanted.shape, np.float32)
        weights, by_level = trellis.weights(quality)
        with one_thread(), self.arithmetic():
            walk = Recorder(self.context.walk(features))
            for step, chosen, place in self._groups(walk, size, quality):
                each = np.repeat(weights[place[0]], len(place[1]))
                symbols, seen, meant = trellis.quantise(
                    self._gaussian, chosen, wanted[place].reshape(-1), each, by_level
                )
                coded[place], values[place] = self._fold(symbols), self._fold(meant)
                walk.update(step, self._shown(seen))
        known = Known(walk.predictions)
        return Latents(coded.reshape(-1, *size), _integers(z_hat[0]), features, known, values.reshape(-1, *size))

    def _kept(self, features: Tensor) -> Tensor | None:
        # What is not exact is computed again, on as many threads as ever: other numbers would not decode.
        return features if self.config.exact else None

    @torch.no_grad()
    def traverse(
        self, coder: SymbolCoder, size: tuple[int, int], quality: int, latents: Latents | None = None
    ) -> Latents:
        """Walk through z and all groups of y with a coder: an encoder is given the latents, a decoder None.

        `size` is that of the picture in pixels. Returns the latents.
        """
        device = self.device
        with one_thread(), self.arithmetic():
            return self._traverse(coder, size, quality, latents, device)

    def _traverse(
        self,
        coder: SymbolCoder,
        size: tuple[int, int],
        quality: int,
        latents: Latents | None,
        device: torch.device,
    ) -> Latents:
        h, w = -(-size[0] // STRIDE), -(-size[1] // STRIDE)
        a, b = -(-h // HYPER_STRIDE), -(-w // HYPER_STRIDE)
        z = self.prior.code(coder, (a, b), None if latents is None else latents.z)
        z_hat = torch.from_numpy(z).to(device).float().unsqueeze(0)
        features = None if latents is None else latents.features
        if features is None:
            features = self.features(z_hat, _quality(quality, z_hat), (h, w))
        if latents is None or not self.config.exact:
            walk = self.context.walk(features)
        else:
            walk = latents.walk or self._encoders_walk(latents.y, features)
        trellis, given = self.own_trellis, None if latents is None else latents.y.reshape(len(latents.y), -1)
        y, values = np.zeros((self.config.latents, h * w), np.int32), None if latents is None else latents.values
        unknown = values is None or not isinstance(walk, Known)
        told = np.zeros(y.shape, np.float32)
        for step, chosen, place in self._groups(walk, (h, w), _quality(quality, z_hat)):
            symbols = None if given is None else given[place].reshape(-1)
            if trellis is None:
                symbols = self.distribution.code(coder, chosen, symbols)
            else:
                symbols = trellis.code(coder, self._gaussian, chosen, symbols)
            y[place] = self._fold(symbols)
            if unknown:
                seen, meant = self._meant(trellis, chosen, symbols)
                told[place] = self._fold(meant)
                walk.update(step, self._shown(seen))
        numbers = None if latents is None else latents.filter
        if (own := self.own_filter) is not None:
            if latents is not None and numbers is None:
                numbers = np.zeros(self.config.post_filters, np.int32)
            numbers = own.code(coder, numbers)
        values = told.reshape(-1, h, w) if unknown else values
        return Latents(y.reshape(-1, h, w), z, self._kept(features), values=values, filter=numbers)

    def _groups(self, walk: Walk, size: tuple[int, int], quality: Tensor) -> Iterator[tuple[int, Tensor, Place]]:
        """Yield each group's step, what the distribution chose for it, and its place in y (M, h w).

        A walk that does not know it is to be shown the group's symbols before the next.
        """
        usual = self.usual_scale(quality)[0, :, :, 0]
        positions = self.context.order.positions(*size)
        for step, group in enumerate(self.context.order.sequence(*size)):
            parameters = walk.predict(step)[0].float()
            channels, at = self.context.channels(group), positions[group.phase].numpy()
            scale = usual[channels].expand(-1, len(at)).flatten()
            yield step, self.distribution.choose(parameters.flatten(1), scale), (channels, at)

    def _fold(self, flat: NDArray[Any]) -> NDArray[Any]:
        """Give what is told of each of a group's symbols, in a row, the shape (C, n) of its place."""
        return flat.reshape(self.context.segment_channels, -1)

    def _shown(self, seen: NDArray[Any]) -> Tensor:
        return torch.from_numpy(self._fold(seen)).to(self.device).unsqueeze(0)

    def _meant(
        self, trellis: Trellis | None, chosen: Tensor, symbols: Integers
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return what the context model sees of n symbols, and what they stand for."""
        if trellis is None:
            return symbols, self.distribution.reconstruct(chosen, symbols)
        return trellis.meant(self._gaussian, chosen, symbols)

    def least_bytes(self, size: tuple[int, int]) -> float:
        """Return what y of a picture of this size takes at least: a shorter file cannot be whole."""
        positions = -(-size[0] // STRIDE) * -(-size[1] // STRIDE)
        return positions * self.config.latents * self.distribution.least_bits() / 8

    @torch.no_grad()
    def dequantise(self, latents: Latents, quality: int) -> Tensor:
        """Return y_hat (1, M, h, w), what the symbols stand for; of an exact model the same on every machine."""
        known = self.known(latents, quality)
        assert known.features is not None
        assert known.values is not None
        return torch.from_numpy(known.values).to(self.device).unsqueeze(0) + known.features[:, : self.config.latents]

    @torch.no_grad()
    def known(self, latents: Latents, quality: int) -> Latents:
        """Return latents with all that follows from them, as far as it is missing."""
        at, size, features = _quality(quality, self.log_gain.table), latents.y.shape[1:], latents.features
        with one_thread(), self.arithmetic():
            if features is None:
                z_hat = torch.from_numpy(latents.z).to(self.device).float().unsqueeze(0)
                features = self.features(z_hat, at, size)
            if latents.values is not None:
                return latents._replace(features=features)
            walk, given = Recorder(self._encoders_walk(latents.y, features)), latents.y.reshape(len(latents.y), -1)
            trellis, values = self.own_trellis, np.zeros(given.shape, np.float32)
            for step, chosen, place in self._groups(walk, size, at):
                seen, meant = self._meant(trellis, chosen, given[place].reshape(-1))
                values[place] = self._fold(meant)
                walk.update(step, self._shown(seen))
        kept = Known(walk.predictions) if self.config.exact else None
        return latents._replace(features=features, walk=kept, values=values.reshape(latents.y.shape))

    def _encoders_walk(self, y: Integers, features: Tensor) -> Walk:
        """Return a walk for all groups' symbols: one masked pass, unless what contexts see follows from parameters."""
        if self.own_trellis is not None:
            return self.context.walk(features)
        return self.context.single_pass(torch.from_numpy(y).to(self.device).float().unsqueeze(0), features)

    def _as_coded(self, symbols: Tensor, parameters: Tensor, usual: Tensor) -> tuple[Tensor, Integers]:
        """Return the choices and symbols of symbols (B, M, h, w), in a row, given all parameters (B, P, M, h, w)."""
        chosen = self.distribution.choose(parameters.transpose(0, 1).flatten(1), usual.expand_as(symbols).flatten())
        return chosen, symbols.flatten().to(torch.int32).cpu().numpy()

    @torch.no_grad()
    def reconstruct(self, latents: Latents, size: tuple[int, int], quality: int) -> Tensor:
        """Return the picture (1, 3, H, W), float, of decoded latents."""
        y_hat = self.dequantise(latents, quality)
        x_hat = self.synthesise(y_hat, _quality(quality, y_hat))[:, :, : size[0], : size[1]]
        return self.filtered(x_hat, latents.filter, quality)

    def filtered(self, x_hat: Tensor, numbers: Integers | None, quality: int) -> Tensor:
        """Return a picture (1, 3, H, W) behind a filter of numbers (K,), if it has any and the config filters."""
        if self.post_filter is None or numbers is None:
            return x_hat
        return self.post_filter(x_hat, numbers, self.multiplier(quality))

    @torch.no_grad()
    def with_filter(self, x: Tensor, latents: Latents, quality: int) -> Latents:
        """Return the latents of x (1, 3, H, W) with the filter that suits it, if the weights know directions."""
        if (own := self.own_filter) is None:
            return latents
        if self.config.exact:  # else an encoder has to compute them as a decoder does
            latents = self.known(latents, quality)
        with autocast(self.device):
            x_hat = self.reconstruct(latents._replace(filter=None), (x.shape[2], x.shape[3]), quality).float()
        return latents._replace(filter=own.fit(*own.loss(x, x_hat, self.multiplier(quality))))

    @torch.no_grad()
    def levels(self, latents: Latents, quality: int) -> NDArray[np.float32]:
        """Return the level (M, h, w) of the table that each symbol of y is coded by; the model is exact."""
        return self._look(
            self.known(latents, quality),
            _quality(quality, self.log_gain.table),
            lambda chosen, symbols: self._gaussian.moments(chosen)[0].astype(np.float32),
        )

    def _look(
        self, latents: Latents, quality: Tensor, look: Callable[[Tensor, Integers], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Return what is told (M, h, w) of each symbol of known latents, by what the distribution chose for it."""
        _, h, w = latents.y.shape
        given = latents.y.reshape(len(latents.y), -1)
        told = np.zeros(given.shape, np.float32)
        assert latents.walk is not None
        for _, chosen, place in self._groups(latents.walk, (h, w), quality):
            told[place] = self._fold(look(chosen, given[place].reshape(-1)))
        return told.reshape(latents.y.shape)

    def multiplier(self, quality: int) -> float:
        """Return the Lagrangian multiplier of a quality."""
        return float(self.lambdas(torch.tensor(float(quality))))

    # -- the field's usual methods -------------------------------------------------------------------------------

    def compress(self, x: Tensor, quality: int = 50) -> Compressed:
        """Compress pictures x (B, 3, H, W) in 0..1 to one string each; no container, no checksum."""
        strings = []
        size = (x.shape[2], x.shape[3])
        for picture in x.split(1):
            encoder = RangeEncoder()
            latents = self.with_filter(picture, self.latents(picture, quality), quality)
            self.traverse(encoder, size, quality, latents)
            strings.append(encoder.finish())
        return {"strings": strings, "shape": size, "quality": quality}

    def decompress(self, strings: list[bytes], shape: tuple[int, int], quality: int = 50) -> dict[str, Tensor]:
        """Invert `compress`: {"x_hat": (B, 3, H, W) in 0..1}."""
        pictures = [
            self.reconstruct(self.traverse(RangeDecoder(string), shape, quality), shape, quality) for string in strings
        ]
        return {"x_hat": torch.cat(pictures).clamp(0, 1)}


def usual_exponents(y: Tensor, log_gain: Tensor) -> Tensor:
    """Return the scale exponents (knots, C) of samples y (n, C) after gains (knots, C)."""
    # The mean log magnitude of a Gaussian lies 0.635 under the log of its scale.
    scales = [((y.abs() * each.exp()).clamp(min=0.05).log().mean(0) + 0.635).exp() for each in log_gain]
    return distributions.exponents(torch.stack(scales))


def _require_exact(config: ModelConfig) -> None:
    float_context = isinstance(config.context, EContextformer | Contextformer) and (
        config.context.norm != "l1" or config.context.activation not in ("relu", "leaky")
    )
    if isinstance(config.hyperprior, ConvHyperprior) or isinstance(config.distribution, Mixture) or float_context:
        raise ModelError(
            "ConvHyperprior, Mixture, norms but l1 and activations but relu and leaky cannot be exact; set exact=False"
        )


def _pad(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column up to a multiple of `multiple`."""
    height, width = -x.shape[2] % multiple, -x.shape[3] % multiple
    return functional.pad(x, (0, width, 0, height), mode="replicate") if height or width else x


def _integers(x: Tensor) -> Integers:
    return x.round().clamp(-LIMIT, LIMIT).to(torch.int32).cpu().numpy()


def _quality(quality: int, like: Tensor) -> Tensor:
    return torch.full((1,), float(rate.check(quality)), dtype=torch.float32, device=like.device)
