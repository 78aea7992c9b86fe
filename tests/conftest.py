"""A small untrained model on disk, and small real pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from vitrail import config, weights
from vitrail.model import Model

# How long an example takes says how busy the machine is.
settings.register_profile("vitrail", deadline=None)
settings.load_profile("vitrail")

TINY = config.ModelConfig(
    "tiny",
    config.LightTransform((16, 16, 16), (1, 1, 1)),
    config.LightHyperprior(16, 48),
    config.EContextformer(width=16, layers=2, heads=2, mlp=2, window=4, norm="l1", activation="leaky", hidden=(32,)),
    latents=32,
    centroid=True,
)

TINY_MCDH = config.ModelConfig(
    "tiny-mcdh",
    config.AGWinT(patch=4, widths=(32, 32, 32), pairs=(1, 1, 1), window=4, mlp=2, linear=True),
    config.DualHyperprior(32, 48),
    config.MCDHContext(width=32, heads=2, hidden=(32,)),
    latents=32,
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Tests are made of small operations; waiting for a second core at each of them takes longer than it saves.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A real photograph, 768 x 512."""
    return Image.open(Path(__file__).parent.parent / "examples" / "photo.webp").convert("RGB")


def wake(model: Model) -> None:
    """Give what starts at zero values, or no fault of the entropy path could show."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("context", "hyperprior")) and parameter.dim() > 1 and not bool(parameter.any()):
                parameter.normal_(std=0.05)


def _weights(chosen: config.ModelConfig, folder: Path, photo: Image.Image) -> Path:
    """Save weights of a model whose linear transform fits the photograph."""
    torch.manual_seed(0)
    model = Model(chosen)
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255
    patches = pixels.unfold(1, 16, 16).unfold(2, 16, 16).permute(1, 2, 0, 3, 4).flatten(0, 1)
    model.fit(patches)
    wake(model)
    model.prior.predicted[::3] = True
    torch.nn.init.normal_(model.prior.log_widths)
    path = folder / f"{chosen.name}.safetensors"
    weights.save(model, path, {"training": "none"})
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, photo: Image.Image) -> Path:
    """Weights of a tiny eContextformer."""
    return _weights(TINY, tmp_path_factory.mktemp("weights"), photo)


@pytest.fixture(scope="session")
def tiny_mcdh(tmp_path_factory: pytest.TempPathFactory, photo: Image.Image) -> Path:
    """Weights of a tiny MCDH."""
    return _weights(TINY_MCDH, tmp_path_factory.mktemp("weights"), photo)
