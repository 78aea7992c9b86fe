"""The command line as a user meets it."""

import contextlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vitrail.cli import main


def run(*arguments: object, data: bytes | None = None) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=data)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def png(tmp_path_factory: pytest.TempPathFactory, photo: Image.Image) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "photo.png"
    photo.crop((0, 0, 60, 40)).save(path)
    return path


@pytest.fixture(scope="module")
def vtl(png: Path, tiny: Path) -> Path:
    assert run("compress", png, "--model", tiny).exit_code == 0
    return png.with_suffix(".vtl")


def test_there_and_back(png: Path, vtl: Path, tiny: Path, tmp_path: Path) -> None:
    result = run("decompress", vtl, "--model", tiny, "-o", tmp_path / "back.webp", "--json")
    assert json.loads(result.stdout)[0]["width"] == 60
    assert Image.open(tmp_path / "back.webp").size == (60, 40)
    said = json.loads(run("info", vtl, "--json").stdout)
    assert (said["width"], said["height"], said["quality"], said["bytes"]) == (60, 40, 50, vtl.stat().st_size)
    assert "60" in run("info", vtl).stdout


def test_streams(png: Path, vtl: Path, tiny: Path) -> None:
    compressed = run("compress", "-", "--model", tiny, data=png.read_bytes())
    assert compressed.stdout_bytes == vtl.read_bytes()
    restored = run("decompress", "-", "--model", tiny, data=compressed.stdout_bytes)
    assert Image.open(io.BytesIO(restored.stdout_bytes)).size == (60, 40)


def test_many_files_into_a_folder(png: Path, tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(png.read_bytes()[:200])
    out = tmp_path / "out"
    out.mkdir()
    result = run("compress", broken, png, "-o", out, "--model", tiny)
    assert result.exit_code == 1
    assert "broken.png" in result.stderr
    assert [path.name for path in out.iterdir()] == ["photo.vtl"]


def test_nothing_is_replaced_unasked(png: Path, vtl: Path, tiny: Path) -> None:
    result = run("compress", png, "--model", tiny)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "--force" in result.stderr
    assert run("compress", png, "--model", tiny, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["compress", "missing.png"], 1, "missing.png"),
        (["compress", __file__], 1, "no picture"),
        (["compress", __file__, "-q", "0"], 2, "range"),
        (["compress"], 2, "Missing argument"),
        (["compress", "a.png", "b.png", "-o", "nowhere/"], 1, "not a folder"),
        (["compress", "x/a.png", "y/a.png", "-o", "."], 1, "different names"),
        (["compress", "."], 1, "not a file"),
        (["compress", "x" * 300], 1, "too long"),
        (["compress", "-", "-o", "."], 1, "standard input"),
        (["decompress", "missing.vtl"], 1, "missing.vtl"),
        (["decompress", __file__], 1, "not a .vtl file"),
        (["info", __file__], 1, "not a .vtl file"),
        (["info", "."], 1, "cannot be read"),
        (["compress", "a.png", "--model", "nothing"], 1, "no model is called"),
        (["train", "nothing", "--data", ".", "--valid", ".", "--minutes", "1", "--out", "o"], 1, "no config"),
    ],
)
def test_errors_are_one_line(arguments: list[str], status: int, message: str, tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        result = run(*arguments)
    assert result.exit_code == status
    assert message in result.stderr
    assert status == 2 or result.stderr.count("\n") == 1


@pytest.mark.parametrize(("more", "message"), [([], "a store"), (["--processes", "2"], "leave --processes away")])
def test_torchrun_needs_a_store(more: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with contextlib.chdir(tmp_path):
        result = run("train", "hyperprior-s", "--data", ".", "--valid", ".", "--minutes", "1", "--out", "o", *more)
    assert result.exit_code == 1
    assert message in result.stderr


def test_models_and_configs() -> None:
    assert "econtextformer-s" in run("models", "--configs").stdout
    shipped = json.loads(run("models", "--json").stdout)
    assert shipped["econtextformer-s"]["config"]["name"] == "econtextformer-s"


def refused(data: bytes, tiny: Path) -> None:
    result = run("decompress", "-", "-o", "out.png", "--model", tiny, data=data)
    assert result.exit_code == 1
    assert result.stderr.startswith("vitrail: ")
    assert result.stderr.count("\n") == 1
    assert not Path("out.png").exists()


def test_every_truncation_is_refused(vtl: Path, tiny: Path, tmp_path: Path) -> None:
    data = vtl.read_bytes()
    with contextlib.chdir(tmp_path):
        for length in range(len(data)):
            refused(data[:length], tiny)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_flipped_bit_is_refused(data: st.DataObject, vtl: Path, tiny: Path, tmp_path: Path) -> None:
    damaged = bytearray(vtl.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    with contextlib.chdir(tmp_path):
        refused(bytes(damaged), tiny)


def test_help_is_quick() -> None:
    """Ratio to a bare interpreter: absolute times depend on the machine."""

    def seconds(*command: str) -> float:
        times = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            times.append(time.perf_counter() - began)
        return min(times)

    imported = (
        "from vitrail.cli import main; import sys; assert 'torch' not in sys.modules; assert 'numpy' not in sys.modules"
    )
    assert seconds("-c", imported) < seconds("-c", "pass") * 15


def test_gray_stays_gray(tiny: Path, tmp_path: Path, photo: Image.Image) -> None:
    source = tmp_path / "gray.png"
    photo.crop((0, 0, 30, 20)).convert("L").save(source)
    assert run("compress", source, "--model", tiny).exit_code == 0
    assert run("decompress", tmp_path / "gray.vtl", "--model", tiny, "-o", tmp_path / "back.png").exit_code == 0
    assert np.asarray(Image.open(tmp_path / "back.png")).ndim == 2
