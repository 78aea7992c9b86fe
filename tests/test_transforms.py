"""Transforms: shapes, and what the linear paths start as."""

import pytest
import torch
from conftest import TINY

from vitrail import config, transforms
from vitrail.transforms.light import LightTransform


@pytest.mark.parametrize("part", [config.LightTransform((16, 16, 16), (1, 1, 1)), config.ConvTransform(16)])
def test_shapes(part: config.Transform) -> None:
    transform = transforms.build(part, 32)
    x, quality = torch.rand(2, 3, 64, 96), torch.tensor([1.0, 100.0])
    y = transform.analysis(x, quality)
    assert y.shape == (2, 32, 4, 6)
    assert transform.synthesis(y, quality).shape == x.shape


def test_the_linear_paths_start_as_principal_components() -> None:
    """With as many components as samples in a patch the untrained transform loses nothing."""
    torch.manual_seed(0)
    assert isinstance(TINY.transform, config.LightTransform)
    transform = LightTransform(TINY.transform, 768)
    transform.fit_linear(torch.rand(2000, 3, 16, 16))
    x, quality = torch.rand(1, 3, 48, 32), torch.tensor([50.0])
    y = transform.analysis(x, quality)
    assert torch.allclose(transform.synthesis(y, quality), x, atol=1e-4)
    assert torch.allclose(y.square().sum(), (x - 0.5).square().sum(), rtol=1e-4)
