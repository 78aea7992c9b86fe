"""Refined latents: never worse, decoded like any others, made tile by tile, and left off when asked."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import vitrail
from vitrail import codec, picture, refinement
from vitrail.cli import main
from vitrail.cli.files import first_interrupt
from vitrail.errors import UsageError
from vitrail.model import Model
from vitrail.refinement import Plan

QUALITY = 60
PLANS = [Plan(3), Plan(12, 0.01, 0.9, straight=True)]


@pytest.fixture(scope="module")
def model() -> Model:
    return vitrail.load_model()


@pytest.fixture(scope="module")
def crop(photo: Image.Image) -> picture.Picture:
    return picture.read(photo.crop((200, 150, 330, 250)))  # no whole number of blocks


def _x(source: picture.Picture) -> torch.Tensor:
    return torch.from_numpy(source.pixels).permute(2, 0, 1)[None].float() / 255


def _loss(source: picture.Picture, model: Model, data: bytes) -> float:
    mse = np.square(np.asarray(codec.decode(data, model).image, np.float32) - source.pixels).mean()
    height, width = source.pixels.shape[:2]
    return 8 * len(data) / (height * width) + float(model.lambdas(torch.tensor(float(QUALITY)))) * float(mse)


@pytest.mark.parametrize("plan", PLANS)
def test_a_refined_file_is_never_worse(model: Model, crop: picture.Picture, plan: Plan) -> None:
    before = codec.encode(crop, model, QUALITY).data
    after = codec.encode(crop, model, QUALITY, plan).data
    assert _loss(crop, model, after) <= _loss(crop, model, before)


def test_steps_gain(model: Model, crop: picture.Picture) -> None:
    before, after = (codec.encode(crop, model, QUALITY, plan).data for plan in (None, refinement.effort_plan(3)))
    assert _loss(crop, model, after) < 0.975 * _loss(crop, model, before)


def test_no_steps_give_the_plain_latents(model: Model, crop: picture.Picture) -> None:
    plain = model.latents(_x(crop), QUALITY)
    refined = refinement.refine(model, _x(crop), QUALITY, Plan(0), plain)
    assert np.array_equal(refined.y, plain.y)
    assert np.array_equal(refined.z, plain.z)
    assert (
        vitrail.compress(Image.fromarray(crop.pixels), QUALITY, model, effort=0)
        == codec.encode(crop, model, QUALITY).data
    )


def test_tiles_make_up_the_picture(model: Model, crop: picture.Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refinement, "_TILE", 4)
    shares: list[float] = []

    def advance(share: float) -> bool:
        shares.append(share)
        return True

    plain = model.latents(_x(crop), QUALITY)
    refined = refinement.refine(model, _x(crop), QUALITY, Plan(2), plain, advance)
    assert refined.y.shape == plain.y.shape
    assert len(shares) == 2 * 3 * 2
    assert sum(shares) == pytest.approx(1)


def test_work_that_is_left_off_still_gives_a_file(model: Model, crop: picture.Picture) -> None:
    plain = codec.encode(crop, model, QUALITY).data
    data = codec.encode(crop, model, QUALITY, Plan(10**6), lambda share: False).data
    assert _loss(crop, model, data) <= _loss(crop, model, plain)


def test_every_model_can_be_refined(tiny_mcdh: Path, crop: picture.Picture) -> None:
    loaded = vitrail.load_model(tiny_mcdh)
    assert codec.decode(codec.encode(crop, loaded, QUALITY, PLANS[0]).data, loaded).image.size == (130, 100)


def test_straight_plans_see_their_last_step(tiny: Path, crop: picture.Picture) -> None:
    loaded = vitrail.load_model(tiny)
    plain = loaded.latents(_x(crop), QUALITY)
    refined = refinement.refine(loaded, _x(crop), QUALITY, Plan(1, 0.05, straight=True), plain)
    assert not np.array_equal(refined.y, plain.y)


def test_parameters_may_have_gradients(crop: picture.Picture) -> None:
    learning = vitrail.load_model().requires_grad_(True)
    assert codec.encode(crop, learning, QUALITY, Plan(1)).data


@pytest.mark.parametrize("effort", [-1, 10, 2.5, "high", None])
def test_efforts_out_of_range(effort: object) -> None:
    with pytest.raises(UsageError, match="effort"):
        refinement.effort_plan(effort)  # type: ignore[arg-type]


def test_efforts_rise() -> None:
    steps = [refinement.effort_plan(effort).steps for effort in refinement.EFFORTS]
    assert steps[0] == 0
    assert sorted(set(steps)) == steps


def test_an_interrupt_writes_the_file_and_stops(
    tmp_path: Path, crop: picture.Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refinement, "_slope", lambda *_: signal.raise_signal(signal.SIGINT))
    for name in ("a.png", "b.png"):
        Image.fromarray(crop.pixels).save(tmp_path / name)
    arguments = ["compress", "--effort", "9", str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 130
    assert "1 of 2 files" in result.output
    assert vitrail.decompress((tmp_path / "a.vtl").read_bytes()).size == (130, 100)
    assert not (tmp_path / "b.vtl").exists()


def test_a_second_interrupt_is_as_usual() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    event = threading.Event()

    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    def twice(call: Callable[[], None]) -> None:
        with first_interrupt(event):
            call()
            assert event.is_set()
            call()

    with pytest.raises(KeyboardInterrupt):
        twice(interrupt)
