"""Hyperpriors: shapes, independence of pictures, and the two halves in float and exact form."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY

from vitrail import config, hyperpriors
from vitrail.errors import ModelError
from vitrail.layers import EXACT, FLOAT, Kit
from vitrail.model import Model

DUAL = config.DualHyperprior(32, 64)
PARTS = [
    config.ConvHyperprior(16),
    config.LightHyperprior(16, 64),
    config.LightHyperprior(16, 64, hidden=12),
    DUAL,
    replace(DUAL, width=64, halves=("channel",)),
    replace(DUAL, width=64, halves=("spatial",)),
]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kit", [FLOAT, EXACT], ids=["float", "exact"])
@torch.no_grad()
def test_shapes_and_pictures_of_a_batch(part: config.Hyperprior, kit: Kit) -> None:
    torch.manual_seed(0)
    hyperprior = hyperpriors.build(part, 32, kit)
    y = torch.randn(2, 32, 12, 20)
    z = hyperprior.analysis(y)
    assert z.shape == (2, hyperprior.channels, 3, 5)
    hyperprior.synthesis(z)
    hyperprior.eval()
    features = hyperprior.synthesis(z)
    assert features.shape == (2, 64, 12, 20)
    assert torch.allclose(hyperprior.synthesis(z[1:]), features[1:], atol=1e-5)


@torch.no_grad()
def test_what_each_half_sees() -> None:
    """A change at one corner reaches the other through channel gates, and through windows it does not."""
    z = torch.randn(1, 64, 8, 8)
    changed = z.clone()
    changed[..., 0, 0] += 3
    reached = {}
    for half in ("channel", "spatial"):
        torch.manual_seed(0)
        hyperprior = hyperpriors.build(replace(DUAL, width=64, halves=(half,)), 32)
        reached[half] = float((hyperprior.synthesis(z) - hyperprior.synthesis(changed))[..., -1, -1].abs().max())
    assert reached["channel"] > 0
    assert reached["spatial"] == 0


@torch.no_grad()
def test_the_exact_dual_hyperprior_does_not_depend_on_threads() -> None:
    torch.manual_seed(0)
    model = Model(replace(TINY, exact=True, hyperprior=DUAL))
    model(torch.rand(1, 3, 128, 128), 50)
    model.eval()
    z = torch.randint(-4, 5, (1, 64, 5, 6)).float()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        with model.arithmetic():
            results.append(model.hyperprior.synthesis(z))
            results.append(model.hyperprior.synthesis(torch.cat([z.flip(2), z]))[1:])
    torch.set_num_threads(1)
    assert all(torch.equal(results[0], other) for other in results)


@pytest.mark.parametrize("wrong", [{"halves": ("depth",)}, {"halves": ()}, {"width": 24}])
def test_impossible_halves(wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="hyperprior"):
        hyperpriors.build(replace(DUAL, **wrong), 32)  # type: ignore[arg-type]
