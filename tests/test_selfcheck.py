"""The check of exactness: an exact model passes, a float one is found out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import TINY
from PIL import Image

from vitrail import weights
from vitrail.cli import main
from vitrail.errors import VitrailError
from vitrail.evaluation import selfcheck
from vitrail.model import Model

FEW = [selfcheck.settings(True)[0], selfcheck.settings(True)[2]]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return selfcheck.generated_pictures()[:2]


@pytest.mark.parametrize("exact", [True, False])
def test_exact_models_pass_and_float_ones_fail(exact: bool, pictures: list[Image.Image], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model(replace(TINY, exact=exact))
    with torch.no_grad():
        for parameter in model.context.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model(torch.rand(2, 3, 128, 128), torch.tensor([1.0, 100.0]))
    path = tmp_path / "model.safetensors"
    weights.save(model, path, {})
    outcomes = selfcheck.run(str(path), pictures, FEW)
    assert outcomes[0].kernels == "DEFAULT"
    differences = [difference for outcome in outcomes for difference in outcome.differences]
    assert (differences == []) is exact


def test_a_child_that_fails_is_named(pictures: list[Image.Image], tiny: Path) -> None:
    broken = selfcheck.Setting(1, device="nowhere")
    with pytest.raises(VitrailError, match="nowhere"):
        selfcheck.run(str(tiny), pictures[:1], [broken])
    good, bad = selfcheck.run(str(tiny), pictures[:1], [FEW[0], broken])
    assert good.differences == ()
    assert "nowhere" in bad.differences[0]


def test_all_settings_are_distinct() -> None:
    every = [str(setting) for setting in selfcheck.settings(False)]
    assert len(every) == len(set(every)) >= 39
    assert len(selfcheck.settings(True)) >= 6


def test_the_shipped_model_is_exact(tmp_path: Path, photo: Image.Image) -> None:
    source = tmp_path / "crop.png"
    photo.crop((200, 100, 296, 180)).save(source)
    result = CliRunner().invoke(main, ["selfcheck", str(source), "--short", "--json"])
    assert result.exit_code == 0, result.output
    assert all(outcome["differences"] == [] for outcome in json.loads(result.stdout))
