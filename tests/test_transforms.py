"""Transforms: shapes, and what the linear paths start as."""

from dataclasses import replace

import pytest
import torch

from vitrail import config, transforms
from vitrail.errors import ModelError
from vitrail.windows import Windows

AGWINT = config.AGWinT(4, (16, 16, 32), (1, 1, 1), window=4, head=8, mlp=2)
PARTS = [
    config.LightTransform((16, 16, 16), (1, 1, 1)),
    config.ConvTransform(16),
    AGWINT,
    replace(AGWINT, patch=2, reading="pooled"),
    replace(AGWINT, reading="shifted"),
    replace(AGWINT, linear=True),
]


@pytest.mark.parametrize("part", PARTS)
def test_shapes(part: config.Transform) -> None:
    transform = transforms.build(part, 32)
    x, quality = torch.rand(2, 3, 64, 96), torch.tensor([1.0, 100.0])
    y = transform.analysis(x, quality)
    assert y.shape == (2, 32, 4, 6)
    assert transform.synthesis(y, quality).shape == x.shape


@pytest.mark.parametrize("part", [PARTS[0], PARTS[-1]])
def test_linear_paths_start_as_principal_components(part: config.Transform) -> None:
    """With as many components as samples in a patch the untrained transform loses nothing."""
    torch.manual_seed(0)
    transform = transforms.build(part, 768)
    assert transform.linear is not None
    transform.linear.fit(torch.rand(2000, 3, 16, 16))
    x, quality = torch.rand(1, 3, 48, 32), torch.tensor([50.0])
    y = transform.analysis(x, quality)
    assert torch.allclose(transform.synthesis(y, quality), x, atol=1e-4)
    assert torch.allclose(y.square().sum(), (x - 0.5).square().sum(), rtol=1e-4)


@pytest.mark.parametrize("part", PARTS)
def test_without_a_gradient_they_give_the_same(part: config.Transform) -> None:
    """Sums are made in place then, and never in what the caller gave."""
    torch.manual_seed(0)
    transform = transforms.build(part, 32)
    for parameter in transform.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x, quality = torch.rand(1, 3, 48, 80), torch.tensor([30.0])
    y = transform.analysis(x, quality)
    x_hat = transform.synthesis(y, quality)
    given, latents = x.clone(), y.detach().clone()
    with torch.no_grad():
        assert torch.allclose(transform.analysis(given, quality), y, atol=1e-4)
        assert torch.allclose(transform.synthesis(latents, quality), x_hat, atol=1e-4)
    assert torch.equal(given, x)
    assert torch.equal(latents, y)


@pytest.mark.parametrize("part", PARTS)
@torch.no_grad()
def test_pictures_of_a_batch_do_not_meet(part: config.Transform) -> None:
    torch.manual_seed(0)
    transform = transforms.build(part, 32)
    x, quality = torch.rand(2, 3, 48, 80), torch.tensor([1.0, 100.0])
    y = transform.analysis(x, quality)
    assert torch.allclose(transform.analysis(x[1:], quality[1:]), y[1:], atol=1e-4)
    both, alone = transform.synthesis(y, quality), transform.synthesis(y[:1], quality[:1])
    assert torch.allclose(alone, both[:1], atol=1e-4)


@torch.no_grad()
def test_reach_of_the_readings_of_agwint() -> None:
    """One corner's change reaches the other corner through global queries and pooled tokens, not through one shift."""
    x, quality = torch.rand(1, 3, 256, 256).double(), torch.tensor([50.0])
    changed = x.clone()
    changed[..., :8, :8] = 1 - changed[..., :8, :8]
    reached = {}
    for reading in ("global", "pooled", "shifted"):
        torch.manual_seed(0)
        transform = transforms.build(replace(AGWINT, reading=reading), 32).double()
        difference = transform.analysis(x, quality) - transform.analysis(changed, quality)
        reached[reading] = float(difference[..., -1, -1].abs().max())
    assert reached["global"] > 0
    assert reached["pooled"] > 0
    assert reached["shifted"] == 0


@pytest.mark.parametrize("shift", [False, True])
def test_windows_invert_and_hide_padding(shift: bool) -> None:
    windows = Windows(6, 9, 4, shift, torch.device("cpu"))
    x = torch.rand(2, 6, 9, 3)
    assert torch.equal(windows.join(windows.cut(x)), x)
    assert windows.mask is not None
    seen = (windows.mask[:, 0] == 0).float()  # (windows, queries, keys)
    inside = windows.cut(torch.ones(1, 6, 9, 1))[..., 0]
    assert float((seen * (1 - inside[:, None])).sum()) == 0
    assert bool(((seen * inside[:, None]).sum(2) > 0)[inside > 0].all())
    assert Windows(8, 8, 4, False, torch.device("cpu")).mask is None


def test_impossible_agwint() -> None:
    for wrong in ({"patch": 3}, {"head": 7}, {"reading": "none"}, {"patch": 2, "linear": True}):
        with pytest.raises(ModelError, match="AGWinT"):
            transforms.build(replace(AGWINT, **wrong), 32)  # type: ignore[arg-type]
