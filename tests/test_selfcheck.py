"""The check of exactness: an exact model passes, a float one is found out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import TINY
from PIL import Image

from vitrail import weights, zoo
from vitrail.cli import main
from vitrail.errors import VitrailError
from vitrail.evaluation import selfcheck
from vitrail.model import Model

FEW = [selfcheck.settings(True)[0], selfcheck.settings(True)[2]]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return selfcheck.generated_pictures()[:2]


# In a child: one sort of layer adds in an order that the number of threads decides, as libraries do on some
# processors, and the probe at load lets it pass.
INEXACT = """
import torch
from torch.nn.functional import linear
from vitrail import weights
from vitrail.exact import layers
def forward(self, *x):
    parts = zip(torch.cat(x, -1).tensor_split(torch.get_num_threads(), -1),
                self.weight.tensor_split(torch.get_num_threads(), -1))
    return sum(linear(*part) for part in parts) + self.bias
layers.Linear.forward = forward
weights._probe = lambda model: weights_probe
class Any(str):
    __ne__ = lambda self, other: False
weights_probe = Any()
"""


@pytest.fixture(scope="module")
def exact_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = Model(replace(TINY, exact=True))
    with torch.no_grad():
        for parameter in model.context.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model(torch.rand(2, 3, 128, 128), torch.tensor([1.0, 100.0]))
    path = tmp_path_factory.mktemp("exact") / "model.safetensors"
    weights.save(model, path, {})
    return path


def test_an_exact_model_passes(exact_model: Path, pictures: list[Image.Image]) -> None:
    outcomes = selfcheck.run(str(exact_model), pictures, FEW)
    assert outcomes[0].kernels == "DEFAULT"
    assert [outcome.differences for outcome in outcomes] == [(), ()]


def test_an_inexact_layer_is_found_out(exact_model: Path, pictures: list[Image.Image], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INEXACT)
    settings = [replace(few, environment={**few.environment, "PYTHONPATH": str(tmp_path)}) for few in FEW]
    outcomes = selfcheck.run(str(exact_model), pictures, settings)
    assert any("parameters" in difference for outcome in outcomes for difference in outcome.differences)


def test_a_child_that_fails_is_named(pictures: list[Image.Image], tiny: Path) -> None:
    broken = selfcheck.Setting(1, device="nowhere")
    with pytest.raises(VitrailError, match="nowhere"):
        selfcheck.run(str(tiny), pictures[:1], [broken])
    _, bad = selfcheck.run(str(tiny), pictures[:1], [FEW[0], broken])
    assert "nowhere" in bad.differences[0]


def test_all_settings_are_distinct() -> None:
    every = [str(setting) for setting in selfcheck.settings(False)]
    assert len(every) == len(set(every)) >= 39
    assert len(selfcheck.settings(True)) >= 6


@pytest.mark.parametrize("model", zoo.names())
def test_shipped_models_are_exact(model: str, tmp_path: Path, photo: Image.Image) -> None:
    source = tmp_path / "crop.png"
    photo.crop((200, 100, 296, 180)).save(source)
    result = CliRunner().invoke(main, ["selfcheck", str(source), "--model", model, "--short", "--json"])
    assert result.exit_code == 0, result.output
    assert all(outcome["differences"] == [] for outcome in json.loads(result.stdout))
