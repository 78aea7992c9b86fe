"""Every context model and order: causality, reach, and the walk against the single masked pass."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vitrail import config, contexts
from vitrail.contexts import ContextModel
from vitrail.errors import ModelError
from vitrail.layers import EXACT, FLOAT, Kit
from vitrail.orders import whole

M, F, P = 16, 24, 2
SMALL = config.EContextformer(width=16, layers=4, heads=2, mlp=2, window=4, norm="l1", activation="relu", hidden=(32,))
CONTEXTFORMER = config.Contextformer(segments=2, width=16, layers=1, heads=2, mlp=2, window=4, norm="l1", hidden=(32,))
MCDH = config.MCDHContext(width=16, heads=2, hidden=(32,))
PARTS = {
    "econtextformer sfo": SMALL,
    "econtextformer cfo": replace(SMALL, order="cfo"),
    "econtextformer no sfg": replace(SMALL, sfg=False),
    "econtextformer paper": replace(SMALL, norm="layer", activation="gelu", segments=2),
    "econtextformer channel attention": replace(SMALL, attention="channel"),
    "econtextformer whole segments": replace(SMALL, checkered=False),
    "econtextformer own parameters": replace(SMALL, shared_parameters=False),
    "econtextformer interleaved": replace(SMALL, interleaved=True),
    "econtextformer leaky": replace(SMALL, activation="leaky"),
    "contextformer cfo": CONTEXTFORMER,
    "contextformer sfo": replace(CONTEXTFORMER, order="sfo"),
    "checkerboard sfo": config.CheckerboardContext(width=16, hidden=(32,)),
    "checkerboard cfo": config.CheckerboardContext(order="cfo", width=16, hidden=(32,)),
    "none": config.NoContext((32,)),
    "mcdh checkerboard": MCDH,
    "mcdh checkerboard, tiles": replace(MCDH, tile=4),
    "mcdh raster": replace(MCDH, order="raster"),
    "mcdh raster, tiles": replace(MCDH, order="raster", tile=4),
    "mcdh local": replace(MCDH, global_context=False),
    "mcdh raster global": replace(MCDH, order="raster", local_context=False),
    "mcdh hyperprior alone": replace(MCDH, local_context=False, global_context=False),
}
SIZES = [(7, 9), (8, 8), (1, 1), (5, 12)]


def build(part: config.Context, seed: int = 0, kit: Kit = FLOAT) -> ContextModel:
    torch.manual_seed(seed)
    model = contexts.build(part, M, F, P, kit).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def inputs(height: int, width: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    symbols = torch.randint(-3, 4, (batch, M, height, width)).double()
    return symbols, torch.randn(batch, F, height, width).double()


@pytest.fixture(params=PARTS.values(), ids=PARTS.keys())
def model(request: pytest.FixtureRequest) -> ContextModel:
    return build(request.param)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_walk_equals_the_single_pass(model: ContextModel, size: tuple[int, int]) -> None:
    symbols, features = inputs(*size)
    assert torch.allclose(model.stepwise(symbols, features), model(symbols, features), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(7, 9), (8, 8)])
@torch.no_grad()
def test_a_later_group_changes_no_earlier_parameter(model: ContextModel, size: tuple[int, int]) -> None:
    symbols, features = inputs(*size)
    before = model(symbols, features)
    positions, groups = model.order.positions(*size), model.order.sequence(*size)
    for step, group in enumerate(groups):
        changed = symbols.clone().flatten(2)
        changed[:, model.channels(group), positions[group.phase]] += 5
        after = model(changed.view_as(symbols), features)
        for earlier in range(step + 1):
            at = positions[groups[earlier].phase]
            channels = model.channels(groups[earlier])
            assert torch.equal(before.flatten(3)[:, :, channels, at], after.flatten(3)[:, :, channels, at]), (
                f"group {step} reaches group {earlier}"
            )
        blind = model.order == whole() or part_of(model) == replace(MCDH, local_context=False, global_context=False)
        if step + 1 < len(groups) and not blind:
            assert not torch.equal(before, after), f"group {step} reaches no later group"


def part_of(model: ContextModel) -> object:
    return getattr(model, "part", None)


def test_gradients_of_a_group_flow_from_earlier_groups_alone(model: ContextModel) -> None:
    symbols, features = inputs(7, 9)
    positions, groups = model.order.positions(7, 9), model.order.sequence(7, 9)
    symbols.requires_grad_()
    parameters = model(symbols, features).flatten(3)
    for step, group in enumerate(groups):
        total = parameters[:, :, model.channels(group), positions[group.phase]].square().sum()
        gradient = torch.autograd.grad(total, symbols, retain_graph=True, allow_unused=True)[0]
        for other in range(step, len(groups)):
            if gradient is not None:
                assert not model.take(groups[other], gradient, positions).any()


@torch.no_grad()
def test_pictures_of_a_batch_do_not_meet(model: ContextModel) -> None:
    symbols, features = inputs(7, 9)
    alone = torch.cat([model(symbols[index : index + 1], features[index : index + 1]) for index in range(2)])
    assert torch.allclose(alone, model(symbols, features), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", ["sfo", "cfo"])
@torch.no_grad()
def test_optimisations_that_may_not_change_the_result(order: str) -> None:
    symbols, features = inputs(7, 9)
    results = [
        build(replace(SMALL, order=order, egr=egr, cache=cache)).stepwise(symbols, features)
        for egr, cache in [(True, True), (True, False), (False, False)]
    ]
    for result in results[1:]:
        assert torch.allclose(results[0], result, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_shifted_windows_reach_across_a_border() -> None:
    model = build(SMALL)
    symbols, features = inputs(8, 8, 1)
    changed = symbols.clone()
    changed[:, :, 0, 4] += 5  # in the window to the right of position (0, 3)
    assert (model(symbols, features) - model(changed, features))[..., 0, 3].abs().max() > 0
    one_layer = build(replace(SMALL, layers=1))
    assert not (one_layer(symbols, features) - one_layer(changed, features))[..., :, :4].any()


@torch.no_grad()
def test_a_seam_of_shifted_windows_is_closed() -> None:
    # Cyclic shifts bring the last rows beside the first ones: they must not see each other.
    model = build(replace(SMALL, layers=2))
    symbols, features = inputs(16, 16, 1)
    changed = symbols.clone()
    changed[:, :, 15, :] += 5
    assert not (model(symbols, features) - model(changed, features))[..., :4, :].any()


@torch.no_grad()
def test_channel_attention_stays_in_its_slot() -> None:
    model = build(replace(SMALL, attention="channel"))
    symbols, features = inputs(8, 8, 1)
    changed = symbols.clone()
    changed[:, :, 3, 5] += 5
    found = (model(symbols, features) - model(changed, features)).abs().amax((0, 1, 2)).nonzero().tolist()
    assert found == [[3, 4], [3, 5]]  # a slot holds a position of either phase


@torch.no_grad()
def test_padding_is_not_seen() -> None:
    # The same latent inside a larger geometry: a 6 x 6 map is padded to 8 x 8 either way, 8 x 8 is not.
    model = build(replace(SMALL, layers=1))
    symbols, features = inputs(8, 8, 1)
    inner = model(symbols[..., :4, :4], features[..., :4, :4])
    assert torch.allclose(inner, model(symbols, features)[..., :4, :4], rtol=1e-9, atol=1e-9)
    padded = model(symbols[..., :3, :4], features[..., :3, :4])
    assert not torch.allclose(padded[..., :3, :], inner[..., :3, :])


@torch.no_grad()
def test_a_mask_that_lets_one_later_group_through_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(SMALL)
    geometry = type(model.geometry(8, 8, torch.device("cpu")))  # type: ignore[operator]
    honest = geometry.mask
    monkeypatch.setattr(geometry, "mask", lambda self, shift, q, k, p: honest(self, shift, [i + 1 for i in q], k, p))
    symbols, features = inputs(8, 8)
    with torch.enable_grad():  # without gradients hidden keys are not even scored
        passed = model(symbols, features)
    assert not torch.allclose(model.stepwise(symbols, features), passed)


@pytest.mark.parametrize("kit", [FLOAT, EXACT])
def test_attention_in_pieces_is_that_of_training(kit: Kit) -> None:
    model = build(SMALL, kit=kit)
    symbols, features = inputs(16, 20)  # more windows than are taken at once
    passed = model(symbols, features)
    with torch.no_grad():
        pieces = model(symbols, features)
    assert torch.equal(passed, pieces) if kit is EXACT else torch.allclose(passed, pieces, atol=1e-5)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (replace(SMALL, window=6), "window"),
        (replace(SMALL, segments=3), "segments"),
        (replace(SMALL, egr=False), "cached"),
        (replace(SMALL, attention="spatial"), "spatial"),
        (replace(SMALL, order="zigzag"), "zigzag"),
        (replace(SMALL, segments=1, checkered=False), "NoContext"),
        (replace(MCDH, tile=512), "not exact"),
    ],
)
def test_impossible_configs(part: config.Context, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(part)


@pytest.mark.parametrize("order", ["checkerboard", "raster"])
@torch.no_grad()
def test_mcdh_without_a_past(order: str) -> None:
    """What has no earlier position has no global context, whatever the later ones are."""
    model = build(replace(MCDH, order=order))
    symbols, features = inputs(1, 1)
    predicted = model(symbols, features)
    assert predicted.isfinite().all()
    assert torch.equal(predicted, model(symbols + 9, features))


@torch.no_grad()
def test_mcdh_matches_patches_by_their_shape_not_their_size() -> None:
    model = build(replace(MCDH, order="raster"))
    features = inputs(6, 6)[1]
    patches = [100 * torch.randn(1, 5, M).double() for _ in range(12)]
    flat = features.flatten(2).transpose(1, 2)[:1, :5]
    once = model.describe(model.query, patches, flat, 0)  # type: ignore[operator]
    twice = model.describe(model.query, [2 * patch for patch in patches], flat, 0)  # type: ignore[operator]
    assert torch.allclose(once, twice, rtol=1e-2)


@pytest.mark.parametrize(
    "part",
    [
        SMALL,
        PARTS["econtextformer interleaved"],
        CONTEXTFORMER,
        MCDH,
        replace(MCDH, order="raster"),
        PARTS["checkerboard sfo"],
    ],
)
@torch.no_grad()
def test_exact_walks_equal_exact_passes(part: config.Context) -> None:
    torch.manual_seed(0)
    if isinstance(part, config.EContextformer | config.Contextformer):
        part = replace(part, norm="l1", activation="leaky")
    model = contexts.build(part, M, F, P, EXACT)
    symbols, features = (x.float() for x in inputs(7, 9))
    model(symbols, features)
    model.eval()
    assert torch.equal(model.stepwise(symbols, features), model(symbols, features))
