"""Training: the store, the loss, the schedule, and a run of a few seconds that is resumed."""

import io
import json
import socket
import subprocess
import sys
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import TINY
from PIL import Image

from vitrail import precision, weights
from vitrail.cli import main
from vitrail.config import CONFIGS, NoContext
from vitrail.errors import UsageError
from vitrail.layers import ResidualBlock
from vitrail.model import Model
from vitrail.training import generated, loop, optimizers, validation
from vitrail.training.loss import RateDistortion, rate_distortion
from vitrail.training.store import KEPT, Everything, Store, build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: Image.Image) -> Path:
    """One photograph as a file, one in a tar archive, one too small, one broken."""
    path = tmp_path_factory.mktemp("photos")
    photo.save(path / "a.png")
    photo.crop((0, 0, 100, 100)).save(path / "small.png")
    (path / "notes.txt").write_text("passed over")
    buffer = io.BytesIO()
    photo.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG")
    with tarfile.open(path / "more.tar", "w") as archive:
        for name, content in (("b.png", buffer.getvalue()), ("broken.png", b"no picture")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "store"
    counts = build([folder], path, Everything())
    assert counts == {KEPT: 2, "smaller than 256 pixels": 1, "no picture": 1}
    return path


def test_bf16_is_used_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for able in ({"amx_bf16": True}, {"avx2": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        with precision.autocast(cpu):
            assert torch.is_autocast_enabled("cpu") == ("amx_bf16" in able)


def test_generated_pictures_differ_and_are_made_again() -> None:
    first, second = (generated.crops(np.random.default_rng(1), 50, 64) for _ in range(2))
    assert first.shape == (50, 3, 64, 64)
    assert torch.equal(first, second)
    assert first.min() >= 0
    assert first.max() <= 1
    assert len(first.flatten(1).unique(dim=0)) > 40


def test_the_store_holds_the_photographs(store: Path, photo: Image.Image) -> None:
    opened = Store(store, torch.device("cpu"))
    index = json.loads((store / "index.json").read_text())
    assert [entry["name"].rpartition("/")[2] for entry in index["pictures"]] == ["a.png", "b.png"]
    assert [entry["name"].rpartition("/")[2] for entry in index["dropped"]] == ["broken.png", "small.png"]
    assert opened.sizes == [(512, 768), (768, 512)]
    assert np.array_equal(opened.picture(0).numpy(), np.asarray(photo))


def test_crops(store: Path) -> None:
    opened = Store(store, torch.device("cpu"))
    crops = opened.batch(8, 128)
    assert crops.shape == (8, 3, 128, 128)
    assert 0 <= float(crops.min()) < float(crops.max()) <= 1
    assert torch.equal(crops, Store(store, torch.device("cpu")).batch(8, 128))
    assert not torch.equal(crops, opened.batch(8, 128))


def test_a_folder_without_photographs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no photograph"):
        build([tmp_path], tmp_path / "store", Everything())
    (tmp_path / "bad.tar").write_text("no archive")
    with pytest.raises(UsageError, match="not a whole tar"):
        build([tmp_path], tmp_path / "store", Everything())
    with pytest.raises(UsageError, match="no pictures"):
        validation.pictures(tmp_path)


def test_a_store_is_of_one_folder(store: Path, folder: Path, tmp_path: Path) -> None:
    assert build([folder], store, Everything())[KEPT] == 2
    with pytest.raises(UsageError, match="made of"):
        build([tmp_path], store, Everything())


def test_crops_larger_than_any_photograph(store: Path) -> None:
    with pytest.raises(UsageError, match="smaller crop"):
        Store(store, torch.device("cpu")).batch(1, 576)


def test_qualities_cover_the_scale() -> None:
    qualities = loop.stratified_qualities(33, torch.device("cpu")).sort().values
    assert torch.equal(((qualities - 1) / 3).floor().clamp(max=32), torch.arange(33.0))


def test_schedule() -> None:
    settings = loop.Settings(minutes=1, decay=0.5)
    assert settings.rate(0) == 0
    assert settings.rate(0.01) == pytest.approx(0.5)
    assert settings.rate(0.3) == 1
    assert 0 < settings.rate(0.9) < 0.5
    assert settings.rate(1) == 0


def test_crops_are_small_and_many_at_first() -> None:
    settings = loop.Settings(minutes=1, batch=2, crop=128, early=0.5)
    assert settings.shape(0.49) == (8, 64)
    assert settings.shape(0.5) == (2, 128)


def test_a_fitted_model_starts_as_a_transform_codec(store: Path) -> None:
    data = Store(store, torch.device("cpu"))
    model = Model(TINY).eval()
    crops, quality = data.batch(4, 128), torch.tensor([5.0, 35.0, 65.0, 95.0])
    untold = model.usual_scale.table.clone()
    with torch.no_grad():
        blank = RateDistortion(model)(crops, quality)[1]
        model.fit(data.patches())
        fitted = RateDistortion(model)(crops, quality)[1]
        model.usual_scale.table.copy_(untold)
        unscaled = RateDistortion(model)(crops, quality)[1]
    assert fitted[2] < blank[2] / 4  # MSE
    assert fitted[0] < 0.8 * unscaled[0]  # bits per pixel of y


def test_loss_is_rate_plus_weighted_distortion() -> None:
    torch.manual_seed(0)
    model = Model(TINY)
    x, quality = torch.rand(2, 3, 64, 64), torch.tensor([10.0, 90.0])
    loss, (y_bpp, z_bpp, mse) = RateDistortion(model)(x, quality)
    assert float(loss.detach()) > 0
    assert model.lambdas(quality)[1] > model.lambdas(quality)[0]
    at_one = rate_distortion(model, quality[:1], y_bpp + z_bpp, mse)
    weight = (model.lambdas(quality[:1]) / 0.01) ** -0.5
    assert float(at_one) == pytest.approx(float(weight * (y_bpp + z_bpp) + 255**2 * 0.01 * mse / weight))


def test_training_tells_the_bits_of_what_is_coded_and_lets_latents_learn(tiny: Path, store: Path) -> None:
    model = weights.load(tiny).in_floats()
    crops, quality = Store(store, torch.device("cpu")).batch(1, 128), torch.tensor([60.0])
    y, z = (each.detach().requires_grad_() for each in model.analyse(crops, quality))
    expected = model.eval().estimate(y, z, quality).y_bits
    found = model.train().estimate(y, z, quality).y_bits
    assert torch.allclose(found, expected, atol=1e-4)
    (slope,) = torch.autograd.grad(found.sum(), y)
    assert (slope != 0).float().mean() > 0.5  # rounded values have none


def test_every_parameter_has_an_optimizer_and_learns(store: Path) -> None:
    torch.manual_seed(0)
    model = Model(TINY).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    built = optimizers.build(model, 2e-3, 1e-3)
    with torch.no_grad():  # or z is zero at first, and what reads it learns nothing
        for parameter in model.hyperprior.encoder.parameters():  # type: ignore[union-attr]
            parameter.mul_(2)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    crops = Store(store, torch.device("cpu")).batch(2, 128)
    losses = []
    for _ in range(12):
        loss, _ = RateDistortion(model)(crops, torch.tensor([20.0, 80.0]))
        for optimizer in built:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in built:
            optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    still = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert still == []


def test_muon_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shapes = [(8, 4, 3, 3), (8, 4, 3, 3), (6, 20), (20, 6)]
    mine = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    for weight in mine[:2]:
        weight.data = weight.data.to(memory_format=torch.channels_last)
    theirs = [torch.nn.Parameter(optimizers._matrix(weight.data).clone()) for weight in mine]
    begun = [weight.detach().clone() for weight in theirs]
    monkeypatch.setattr(optimizers, "fast_bf16", lambda device: True)  # theirs is always in bf16
    muon = optimizers.Muon(mine, torch.tensor(0.01))
    reference = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for ours, other in zip(mine, theirs, strict=True):
            ours.grad = torch.randn(ours.shape)
            other.grad = optimizers._matrix(ours.grad.contiguous(memory_format=optimizers._layout(ours))).clone()
        muon.step()
        reference.step()
    for ours, other, first in zip(mine, theirs, begun, strict=True):
        far = (optimizers._matrix(ours.data) - other).norm() / (other - first).norm()
        assert far < 0.03


@pytest.mark.parametrize("shape", [(2, 5, 12), (3, 12, 5)])
def test_an_update_has_even_singular_values(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(optimizers.orthogonal(torch.randn(shape)))
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.5


@pytest.mark.parametrize("name", [name for name in CONFIGS if "-s" in name])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    """Processes that average gradients stop where one is missing."""
    model = Model(replace(CONFIGS[name], exact=False))
    RateDistortion(model)(torch.rand(1, 3, 128, 128), torch.tensor([50.0]))[0].backward()
    learning = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert [key for key, parameter in learning.items() if parameter.grad is None] == []


def test_silent_units_are_counted(photo: Image.Image) -> None:
    model = Model(TINY).eval()
    x = torch.from_numpy(np.array(photo.crop((0, 0, 128, 128)))).permute(2, 0, 1)[None] / 255
    shares = []
    for _ in range(2):
        with validation.SilentUnits(model) as silent, torch.no_grad():
            model(x, 50)
        shares.append(silent.share())
        for block in model.modules():
            if isinstance(block, ResidualBlock):
                torch.nn.init.constant_(block.conv1.bias, -100)  # type: ignore[arg-type]
    assert 0 <= shares[0] < shares[1] - 0.05 < 1
    with torch.no_grad():
        model(x, 50)
    assert silent.share() == shares[1]  # it looks no longer


def test_a_run_and_its_resumption(store: Path, folder: Path, tmp_path: Path) -> None:
    settings = loop.Settings(minutes=0.03, crop=64, batch=2, generated=0.5)
    loop.train(replace(TINY, exact=True), store, folder, tmp_path, settings, resume=False)
    first = weights.load(str(tmp_path / "weights.safetensors"))
    assert first.config == replace(TINY, exact=True)
    steps, _, seconds, *_ = torch.load(tmp_path / loop.CHECKPOINT, weights_only=True)["counters"]
    assert steps > 0
    loop.train(TINY, store, folder, tmp_path, replace(settings, minutes=seconds / 60 + 0.03), resume=True)
    assert torch.load(tmp_path / loop.CHECKPOINT, weights_only=True)["counters"][0] > steps
    assert any((tmp_path / "log").rglob("events*"))


def test_a_compiled_run_is_resumed_by_another(
    store: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the C++ compiler, which takes minutes; in one piece, or an error.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    settings = loop.Settings(minutes=0.03, crop=64, batch=2, early=0, compile=True)
    config = replace(TINY, exact=True)
    loop.train(config, store, folder, tmp_path, settings)
    steps, _, seconds, exact, *_ = torch.load(tmp_path / loop.CHECKPOINT, weights_only=True)["counters"]
    assert exact
    other = replace(settings, minutes=seconds / 60 + 0.03, compile=False)
    loop.train(config, store, folder, tmp_path, other, resume=True)
    assert torch.load(tmp_path / loop.CHECKPOINT, weights_only=True)["counters"][0] > steps > 0


def test_a_compiler_that_fails_is_named(
    store: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=lambda graph, inputs: 1 / 0))
    settings = loop.Settings(minutes=0.03, crop=64, batch=2, compile=True)
    with pytest.raises(UsageError, match="leave --compile away"):
        loop.train(TINY, store, folder, tmp_path, settings)


def test_a_run_begins_with_weights(store: Path, folder: Path, tmp_path: Path, tiny: Path) -> None:
    settings = loop.Settings(minutes=0.05, crop=64, batch=1, muon=0, adamw=0, exact=0, average=0)
    loop.train(replace(TINY, centroid=False), store, folder, tmp_path, settings, start=str(tiny))
    given = weights.load(str(tiny)).state_dict()
    for name in (loop.WEIGHTS, loop.FLAT):
        begun = weights.load(str(tmp_path / name)).state_dict()
        assert all(torch.equal(value, given[key]) for key, value in begun.items())
    with pytest.raises(UsageError, match="config"):
        loop.begin_with(Model(CONFIGS["hyperprior-s"]), str(tiny))


def test_a_run_is_resumed_from_flat_weights(store: Path, folder: Path, tmp_path: Path) -> None:
    arguments = f"train hyperprior-s --data {store} --valid {folder} --out {tmp_path} --minutes 0.1 --batch 1"
    command = [*arguments.split(), "--crop", "128", "--rates", "0", "0", "--resume"]
    assert "flat.safetensors to resume from" in CliRunner().invoke(main, command).stderr
    weights.save(Model(CONFIGS["hyperprior-s"]).eval(), tmp_path / loop.FLAT, {})
    given = weights.load(str(tmp_path / loop.FLAT))
    assert CliRunner().invoke(main, command).exit_code == 0
    after = weights.load(str(tmp_path / loop.WEIGHTS)).state_dict()
    assert all(torch.equal(after[name], parameter) for name, parameter in given.named_parameters())


def test_a_context_model_is_trained_for_given_latents(store: Path, folder: Path, tmp_path: Path, tiny: Path) -> None:
    other = replace(TINY, name="other", context=NoContext((8,)))
    loop.train(other, store, folder, tmp_path, loop.Settings(minutes=0.05, crop=64, batch=1), latents=str(tiny))
    trained, given = (weights.load(str(file)).state_dict() for file in (tmp_path / loop.WEIGHTS, tiny))
    kept = [key for key in given if not key.startswith("context.")]
    assert [key for key in kept if not torch.equal(trained[key], given[key])] == []
    assert any(key.startswith("context.") for key in trained)
    with pytest.raises(UsageError, match="latents"):
        loop.keep_latents(Model(CONFIGS["hyperprior-s"]), str(tiny))


def curve(out: Path, *commands: list[object]) -> list[float]:
    """Return the losses that the first of some commands prints; they run at once."""
    running = [
        subprocess.Popen([*map(str, command), out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        told = [each.communicate(timeout=120) for each in running]
    finally:
        for each in running:
            each.kill()  # or one would wait for another that failed
    assert [each.returncode for each in running] == [0] * len(running), told
    losses: list[float] = json.loads(told[0][0].splitlines()[-1])
    return losses


def test_two_processes_or_machines_learn_as_one_with_all_crops(tmp_path: Path) -> None:
    script = Path(__file__).parent / "curve.py"
    alone = curve(tmp_path, [sys.executable, script, 1])
    assert alone[-1] < alone[0]
    assert curve(tmp_path, [sys.executable, script, 2]) == pytest.approx(alone, rel=1e-5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    machines = ([*torchrun, f"--node-rank={rank}", script, 1] for rank in range(2))
    assert curve(tmp_path, *machines) == pytest.approx(alone, rel=1e-5)


def test_ablation(folder: Path, tmp_path: Path, photo: Image.Image) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    photo.crop((300, 100, 396, 164)).save(pictures / "a.png")
    arguments = ["ablate", "hyperprior-s", "--repeat", "--data", folder, "--valid", pictures, "--out", out]
    arguments += ["--minutes", 0.1, "--crop", 64, "--batch", 1, "--json"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    first, second = json.loads(result.stdout.splitlines()[-1])
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["bd_rate"] == 0
    assert second["bd_rate"] != 0
    assert 10 < first["kmac_decode"] < 100
    assert (out / "table.md").read_text().count("hyperprior-s") == 2
    again = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert again.stdout.splitlines()[-1] == result.stdout.splitlines()[-1]  # what is finished is not done again
    other = CliRunner().invoke(main, [str(argument) for argument in [*arguments, "--batch", 2]])
    assert other.exit_code == 1
    assert "(batch)" in other.stderr


def test_an_ablation_needs_latents_of_all_its_configs(folder: Path, tmp_path: Path, tiny: Path) -> None:
    out = tmp_path / "out"
    arguments = ["ablate", "hyperprior-s", "--data", folder, "--valid", folder, "--out", out, "--minutes", 1]
    result = CliRunner().invoke(main, [*map(str, arguments), "--latents", str(tiny)])
    assert result.exit_code == 1
    assert "other latents than the config hyperprior-s" in result.stderr
    assert not out.exists()


def test_an_ablation_names_a_config_once(folder: Path, tmp_path: Path) -> None:
    arguments = [
        "ablate",
        "mcdh-ablations",
        "mcdh-s",
        "--data",
        folder,
        "--valid",
        folder,
        "--out",
        tmp_path,
        "--minutes",
        1,
    ]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 1
    assert "--repeat" in result.stderr
