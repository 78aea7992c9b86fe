"""Exact arithmetic: equal integers in any order of summation, and the same parameters as the float layers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitrail import config, contexts, exact, weights
from vitrail.coding import RangeDecoder, RangeEncoder
from vitrail.errors import ModelError
from vitrail.exact.grid import levels, power_of_two, rows
from vitrail.layers import EXACT, FLOAT
from vitrail.model import Latents, Model

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: exact.Linear([96], 64), (5, 96)),
    "convolution": (lambda: exact.Conv2d(24, 32, 3), (2, 24, 9, 7)),
    "up": (lambda: exact.Up2x2(48, 32), (2, 48, 5, 6)),
    "norm": (lambda: exact.L1Norm(128), (7, 128)),
}


@given(st.floats(2.0**-29, 2.0**20, width=32))
def test_power_of_two(x: float) -> None:
    power = float(power_of_two(torch.tensor(x)))
    assert x <= power < 2 * x
    assert np.log2(power) % 1 == 0


@given(st.integers(1, 2000), st.integers(1, 300))
def test_levels_keep_sums_in_float32(terms: int, other: int) -> None:
    assert terms * other * levels(terms, other) < 2**24
    assert terms * other * (2 * levels(terms, other) + 1) >= 2**24


def test_impossible_sums_are_refused() -> None:
    with pytest.raises(ModelError, match="not exact"):
        exact.Linear([2**18], 4)


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_grids_round_and_stay(seed: int) -> None:
    torch.manual_seed(seed)
    grid = exact.Grid(127)
    x = torch.randn(50) * 10 ** float(torch.randn(()))
    grid(x)
    grid.eval()
    once = grid(x)
    assert torch.equal(once, grid(once))
    halves = torch.cat([x, float(grid(x).abs().max()) / 254 * torch.arange(-300, 300), torch.tensor([-1e30, 1e30])])
    with torch.no_grad():
        unlearned = grid(halves)
    assert torch.equal(unlearned, grid(halves))
    assert float((once - x).abs().max()) <= float(x.abs().max()) / 127 + 1e-30
    matrix = rows(torch.randn(5, 20) * torch.tensor([[1e-12], [1e-3], [0], [1], [1e4]]))
    assert torch.equal(matrix, rows(matrix))
    numbers, exponents = exact.pack(matrix)
    assert (numbers.dtype, exponents.dtype) == (torch.int8, torch.int8)
    assert torch.equal(exact.unpack(numbers, exponents), matrix)


@pytest.mark.parametrize("name", LAYERS)
def test_sums_do_not_depend_on_their_order(name: str) -> None:
    """The reference adds in float64, which holds every sum of this size; a float layer differs from it."""
    build, shape = LAYERS[name]
    torch.manual_seed(0)
    layer, x = build(), torch.randn(shape)
    layer(x)
    layer.eval()
    y = layer(x)
    reference = _double(layer)(x.double()).float()
    if name in ("linear", "up"):  # the others end in elementwise steps, in float32
        assert torch.equal(y, reference)
    assert torch.allclose(y, reference, rtol=1e-5, atol=1e-6)
    assert torch.equal(layer(torch.cat([x, x, x]))[: len(x)], y)
    with torch.backends.mkldnn.flags(enabled=False):
        layer_again = build()
        layer_again.load_state_dict(layer.state_dict())
        assert torch.equal(layer_again.eval()(x), y)


def _double(layer: nn.Module) -> nn.Module:
    import copy

    twin = copy.deepcopy(layer).double()
    for module in twin.modules():
        if isinstance(module, exact.OnGrids):
            module._state = None
    return twin


def test_attention_weights_are_integers_of_an_exponential() -> None:
    scores = torch.linspace(-12, 3, 400)
    weights_ = exact.weigh(scores)
    assert torch.equal(weights_, weights_.round())
    assert (float(weights_.min()), float(weights_.max())) == (0, exact.LARGEST_WEIGHT)
    true = torch.exp2(scores - 3) * exact.LARGEST_WEIGHT
    assert float((weights_ - true).abs().max()) < 0.09 * exact.LARGEST_WEIGHT
    scores = scores.clone().requires_grad_()
    exact.weigh(scores).sum().backward()
    assert scores.grad is not None
    assert scores.grad.min() >= 0


def test_both_kits_have_the_same_parameters() -> None:
    for float_layer, exact_layer in (
        (FLOAT.linear([3, 4], 5), EXACT.linear([3, 4], 5)),
        (FLOAT.conv(3, 4, 3), EXACT.conv(3, 4, 3)),
        (FLOAT.up(3, 4), EXACT.up(3, 4)),
        (FLOAT.norm(8), EXACT.norm(8)),
    ):
        exact_layer.load_state_dict(float_layer.state_dict(), strict=False)
        names = [name for name, _ in float_layer.named_parameters()]
        assert names == [name for name, _ in exact_layer.named_parameters()]


@pytest.mark.parametrize("kit", ["linear", "conv", "up"])
def test_exact_layers_compute_what_float_ones_do(kit: str) -> None:
    torch.manual_seed(0)
    arguments = {"linear": ([40], 30), "conv": (40, 30, 3), "up": (40, 30)}[kit]
    near, far = getattr(EXACT, kit)(*arguments), getattr(FLOAT, kit)(*arguments)
    near.load_state_dict(far.state_dict(), strict=False)
    x = torch.randn(4, 40) if kit == "linear" else torch.randn(2, 40, 6, 5)
    assert float((near(x) - far(x)).abs().max()) < 0.02 * float(far(x).abs().max())


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    built = Model(replace(TINY, exact=True))
    for name, parameter in built.named_parameters():
        if name.startswith(("context", "hyperprior.decoder")) and parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    built.prior.freeze()
    built.train()
    with torch.no_grad():
        built(torch.rand(2, 3, 128, 128), torch.tensor([1.0, 100.0]))
    return built.eval().requires_grad_(False)


def random_latents(model: Model, h: int, w: int) -> Latents:
    random = np.random.default_rng(0)
    y = np.rint(random.laplace(0, 2, (model.config.latents, h, w))).astype(np.int32)
    return Latents(y, np.rint(random.laplace(0, 2, (16, -(-h // 4), -(-w // 4)))).astype(np.int32))


def test_walk_and_single_pass_give_the_same_numbers(model: Model) -> None:
    latents = random_latents(model, 7, 9)
    symbols = torch.from_numpy(latents.y).float()[None]
    z_hat = torch.from_numpy(latents.z).float()[None]
    features = model.features(z_hat, torch.tensor([30.0]), (7, 9))
    single: Tensor = model.context(symbols, features)
    assert torch.equal(model.context.stepwise(symbols, features), single)
    both = model.context(torch.cat([symbols, symbols.flip(2)]), torch.cat([features, features.flip(2)]))
    assert torch.equal(both[:1], single)


def test_what_z_gives_is_computed_once_and_the_same(model: Model) -> None:
    x = torch.rand(1, 3, 100, 140)
    latents = model.latents(x, 30)
    assert latents.features is not None
    coded = []
    for each in (latents, latents._replace(features=None)):
        encoder = RangeEncoder()
        model.traverse(encoder, (100, 140), 30, each)
        coded.append(encoder.finish())
    assert coded[0] == coded[1]
    decoded = model.traverse(RangeDecoder(coded[0]), (100, 140), 30)
    expected = model.dequantise(latents._replace(features=None), 30)
    assert all(torch.equal(model.dequantise(each, 30), expected) for each in (latents, decoded))
    assert model.in_floats().eval().latents(x, 30).features is None


@pytest.mark.parametrize(
    "switches", [{"checkered": False}, {"checkered": False, "sfg": False, "egr": False, "cache": False}]
)
def test_whole_segments_are_exact(switches: dict[str, bool]) -> None:
    torch.manual_seed(0)
    context = contexts.build(replace(TINY.context, **switches), 32, 48, 2, EXACT)
    for parameter in context.parameters():
        nn.init.normal_(parameter, std=0.2)
    symbols, features = torch.randint(-4, 5, (2, 32, 7, 9)).float(), torch.randn(2, 48, 7, 9)
    with torch.no_grad():
        context.train()(symbols, features)
        context.eval()
        assert torch.equal(context.stepwise(symbols, features), context(symbols, features))


def test_bytes_survive_what_a_user_may_set(model: Model) -> None:
    latents, size = random_latents(model, 7, 9), (100, 140)

    def encoded() -> bytes:
        encoder = RangeEncoder()
        model.traverse(encoder, size, 30, latents)
        return encoder.finish()

    plain = encoded()
    assert np.array_equal(model.traverse(RangeDecoder(plain), size, 30).y, latents.y)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert encoded() == plain
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16), torch.backends.mkldnn.flags(enabled=False):
            assert encoded() == plain
        torch.set_default_dtype(torch.float64)
        assert encoded() == plain
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        torch.set_default_dtype(torch.float32)


def test_a_machine_that_computes_other_numbers_is_refused(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    weights.save(model, path, {})
    monkeypatch.setattr(exact.L1Norm, "forward", lambda self, x: 1.0001 * x * self.weight)
    with pytest.raises(ModelError, match="other numbers"):
        weights.load(str(path))


@pytest.mark.parametrize("name", ["linear", "convolution", "up"])
def test_a_layers_weight_survives_as_integers(name: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name][0]().eval()
    assert isinstance(layer, exact.OnGrids)
    restored = layer.from_matrix(exact.unpack(*exact.pack(layer.matrix())))
    assert restored.shape == layer.weight.shape
    assert torch.equal(layer.as_matrix(restored), layer.matrix())
    assert float((restored - layer.weight).abs().max()) < 0.01 * float(layer.weight.abs().max())


def test_an_exact_file_holds_eight_bits_a_weight(model: Model, tmp_path: Path) -> None:
    weights.save(model, tmp_path / "exact.safetensors", {})
    weights.save(weights.load(tmp_path / "exact.safetensors"), tmp_path / "again.safetensors", {})
    stored, again = (load_file(tmp_path / f"{name}.safetensors") for name in ("exact", "again"))
    assert all(torch.equal(value, again[key]) for key, value in stored.items())
    layers = [name for name, layer in model.named_modules() if isinstance(layer, exact.OnGrids)]
    assert layers
    assert all(stored[f"{name}.numbers"].dtype == torch.int8 for name in layers)
    assert not any(f"{name}.weight" in stored for name in layers)


def test_linear_layers_on_grids_are_stored_as_integers(tiny_mcdh: Path, tmp_path: Path) -> None:
    loaded = weights.load(tiny_mcdh)
    name, layer = next(
        (name, layer) for name, layer in loaded.transform.named_modules() if isinstance(layer, nn.Linear)
    )
    assert f"transform.{name}.weight" in load_file(tiny_mcdh)
    layer.weight.copy_(rows(layer.weight))
    weights.save(loaded, tmp_path / "rounded.safetensors", {})
    assert f"transform.{name}.numbers" in load_file(tmp_path / "rounded.safetensors")
    again = weights.load(tmp_path / "rounded.safetensors").state_dict()
    assert torch.equal(again[f"transform.{name}.weight"], layer.weight)


def test_a_damaged_exact_file_is_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "exact.safetensors"
    weights.save(model, path, {})
    with safe_open(path, "pt") as opened:
        notes = opened.metadata()
    stored = load_file(path)
    layer = next(key.removesuffix(".numbers") for key in stored if key.endswith(".numbers"))
    numbers, exponents = stored[f"{layer}.numbers"], stored[f"{layer}.exponents"]
    for damage in (
        {f"{layer}.exponents": exponents.long() + 256},
        {f"{layer}.exponents": exponents[:1]},
        {f"{layer}.exponents": torch.full_like(exponents, 127)},
        {f"{layer}.numbers": numbers.flip(0)},
        {f"{layer}.weight": numbers.half()},
        {"distribution.table_masses": torch.zeros_like(stored["distribution.table_masses"])},
    ):
        save_file(stored | damage, path, notes)
        with pytest.raises(ModelError):
            weights.load(path)


def test_an_exact_file_says_so(model: Model, tmp_path: Path) -> None:
    weights.save(model, tmp_path / "exact.safetensors", {})
    from vitrail import codec, container, picture

    source = picture.read(np.random.default_rng(0).integers(0, 255, (40, 70, 3), np.uint8))
    loaded = weights.load(str(tmp_path / "exact.safetensors"))
    data = codec.encode(source, loaded, 50).data
    assert not container.read(data).research
    assert codec.decode(data, loaded).image.size == (70, 40)


@pytest.mark.parametrize(
    "parts",
    [
        {"hyperprior": config.ConvHyperprior(16)},
        {"distribution": config.Mixture(2)},
        {"context": config.EContextformer(width=16, layers=2, heads=2, window=4, hidden=(32,))},
    ],
)
def test_what_cannot_be_exact_is_refused(parts: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="exact=False"):
        Model(replace(TINY, exact=True, **parts))  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["bf16", "ieee"])
def test_the_newer_precision_settings_do_not_interfere(model: Model, precision: str) -> None:
    latents = random_latents(model, 4, 4)
    encoder = RangeEncoder()
    model.traverse(encoder, (64, 64), 30, latents)
    backend = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = backend.fp32_precision
    backend.fp32_precision = precision
    try:
        again = RangeEncoder()
        model.traverse(again, (64, 64), 30, latents)
        assert backend.fp32_precision == precision
    finally:
        backend.fp32_precision = before
    assert again.finish() == encoder.finish()


def test_loading_other_parameters_is_noticed() -> None:
    layer, other, x = exact.Linear([8], 4), exact.Linear([8], 4), torch.randn(3, 8)
    layer(x), other(x)
    layer.eval()(x)
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other.eval()(x))


@pytest.mark.parametrize("segments", [1, 2])
def test_attention_keeps_its_bound_without_sfg(segments: int) -> None:
    part = config.EContextformer(segments, width=32, heads=1, window=8, norm="l1", activation="relu", sfg=False)
    built = Model(replace(TINY, exact=True, context=part))
    values = built.context.blocks[0].attention.grids[2]  # type: ignore[index, union-attr]
    assert 2 * segments * 32 * exact.LARGEST_WEIGHT * values.levels < 2**24
