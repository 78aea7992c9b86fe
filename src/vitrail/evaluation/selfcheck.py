"""Whether a model's entropy path computes the same under every setting that a machine can have.

Each setting is a child process, since kernels are chosen when torch is imported. Run as a module, this file is that
child: it prints what it computed as hashes, and the parent compares them.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitrail import codec, container, picture, weights
from vitrail.coding import RangeDecoder, RangeEncoder
from vitrail.errors import VitrailError
from vitrail.model import Latents, Model

QUALITIES = (10, 60, 95)
_ISAS = ("SSE41", "AVX2", "AVX512_CORE", None)
_CAPABILITIES = ("default", "avx2", None)


@dataclass(frozen=True)
class Setting:
    """What one child process runs under; None leaves a variable unset."""

    threads: int = 1
    environment: dict[str, str | None] = field(default_factory=dict)
    precision: str = "highest"
    device: str = "cpu"

    def __str__(self) -> str:
        """Name what differs from the default."""
        parts = [f"{name}={value}" for name, value in self.environment.items() if value is not None]
        parts += [self.precision] * (self.precision != "highest") + [self.device] * (self.device != "cpu")
        return " ".join([f"{self.threads} threads", *parts])


def _cpu(isa: str | None, capability: str | None, threads: int) -> Setting:
    return Setting(threads, {"ONEDNN_MAX_CPU_ISA": isa, "ATEN_CPU_CAPABILITY": capability})


def settings(short: bool) -> list[Setting]:
    """Return all settings, or six that differ most."""
    few = [
        _cpu("SSE41", "default", 1),
        _cpu("AVX2", "avx2", 2),
        _cpu(None, None, 3),
        Setting(2, {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}, "medium"),
        Setting(2, {"ONEDNN_DEFAULT_FPMATH_MODE": "ANY"}, "high"),
        Setting(1, {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}),
    ]
    gpu = [Setting(1, {}, precision, "cuda") for precision in ("highest", "high") if torch.cuda.is_available()]
    if short:
        return few + gpu[:1]
    every = [_cpu(*values) for values in itertools.product(_ISAS, _CAPABILITIES, (1, 2, 3))]
    return every + few[3:] + gpu


def generated_pictures() -> list[Image.Image]:
    """Return small pictures of gradients, edges and noise; two have sides that no transform divides."""
    random = np.random.default_rng(0)
    pictures = []
    for width, height in ((96, 64), (61, 45), (130, 200)):
        y, x = np.mgrid[:height, :width]
        planes = [128 + 100 * np.sin(x / 9 + k) * np.cos(y / 13) + 40 * ((x // 8 + y // 8) % 2) for k in range(3)]
        pixels = np.stack(planes, 2) + random.normal(0, 12, (height, width, 3))
        pictures.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    return pictures


@dataclass(frozen=True)
class Outcome:
    """What became of a setting: its kernels, and what differs from the first setting (nothing, if all is well)."""

    setting: str
    kernels: str
    differences: tuple[str, ...]


def run(
    model: str,
    pictures: Sequence[Image.Image],
    chosen: Sequence[Setting],
    progress: Callable[[Sequence[Setting]], Iterable[Setting]] = iter,
) -> list[Outcome]:
    """Encode, decode and predict under each setting and compare all with the first one.

    Two rounds of child processes: every setting writes files and computes hashes; then every setting decodes the
    distinct files of all. A child that fails counts as a difference; raises `VitrailError` if the first one does.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, image in enumerate(pictures):
            picture.save(image, folder / f"{index}.png")
        reference = weights.load(model)
        for source in _sources(folder):
            for quality in QUALITIES:
                taken = reference.latents(_tensor(source), quality)
                np.savez(folder / f"{source.stem}-{quality}.npz", y=taken.y, z=taken.z)
        first = [_child(model, folder, setting, "compute") for setting in progress(chosen)]
        if "failure" in first[0]:
            raise VitrailError(f"the check under {chosen[0]} failed: {first[0]['failure']}")
        distinct = {data for answer in first for data in answer.get("files", {}).values()}
        for data in distinct:
            (folder / f"{hashlib.sha256(bytes.fromhex(data)).hexdigest()[:16]}.vtl").write_bytes(bytes.fromhex(data))
        second = [_child(model, folder, setting, "decode") for setting in progress(chosen)]
    outcomes = []
    for setting, computed, decoded in zip(chosen, first, second, strict=True):
        answers = {**computed, **decoded}
        differences = [answers["failure"]] if "failure" in answers else []
        differences += [
            f"{what} of {case}"
            for what in ("parameters", "bytes", "decoded latents")
            for case, expected in {**first[0], **second[0]}[what].items()
            if what in answers and (answers[what][case] != expected or "!" in expected)
        ]
        outcomes.append(Outcome(str(setting), answers.get("kernels", "unknown"), tuple(differences)))
    return outcomes


def _child(model: str, folder: Path, setting: Setting, task: str) -> dict[str, Any]:
    environment = {key: value for key, value in (os.environ | setting.environment).items() if value is not None}
    command = [sys.executable, "-m", __name__, model, str(folder), json.dumps(asdict(setting)), task]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failure": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


# -- the child -------------------------------------------------------------------------------------------------------


def _sources(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


def _tensor(path: Path) -> Tensor:
    return torch.from_numpy(picture.read(path).pixels).permute(2, 0, 1).unsqueeze(0).float() / 255


def _digest(*arrays: Any) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _same(values: Iterable[str]) -> str:
    """Return the one value that all are, or a text with "!"."""
    distinct = sorted(set(values))
    return distinct[0] if len(distinct) == 1 else f"{len(distinct)} results in one process!"


@torch.no_grad()
def _parameters(model: Model, latents: Latents, quality: int) -> str:
    """Hash the parameters of all groups: stepwise and single pass, alone and in a batch, either memory layout."""
    device = model.device
    symbols = torch.from_numpy(latents.y).to(device).float().unsqueeze(0)
    z_hat = torch.from_numpy(latents.z).to(device).float().unsqueeze(0)
    size = (symbols.shape[2], symbols.shape[3])
    context = model.context
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        z_in, y_in = z_hat.contiguous(memory_format=layout), symbols.contiguous(memory_format=layout)
        features = model.features(z_in, torch.tensor([float(quality)], device=device), size)
        results.append(context(y_in, features))
        pair = model.features(torch.cat([z_in.flip(2), z_in]), torch.full((2,), float(quality), device=device), size)
        results.append(context(torch.cat([y_in.flip(3), y_in]), pair)[1:])
        results.append(context.stepwise(y_in, features))
    return _same(_digest(result.cpu().numpy()) for result in results)


def _bytes(model: Model, latents: Latents, size: tuple[int, int], quality: int) -> bytes:
    encoder = RangeEncoder()
    model.traverse(encoder, size, quality, latents)
    return encoder.finish()


def _compute(model: Model, folder: Path) -> dict[str, Any]:
    answer: dict[str, dict[str, str]] = {"parameters": {}, "bytes": {}, "files": {}}
    for source in _sources(folder):
        for quality in QUALITIES:
            case = f"{source.stem}-{quality}"
            with np.load(folder / f"{case}.npz") as stored:
                latents = Latents(stored["y"], stored["z"])
            size = picture.read(source).pixels.shape[:2]
            hashes, coded = [], []
            for onednn in (True, False):
                with torch.backends.mkldnn.flags(enabled=onednn), model.arithmetic():
                    hashes.append(_parameters(model, latents, quality))
                    coded.append(_bytes(model, latents, size, quality))
            answer["parameters"][case] = _same(hashes)
            answer["bytes"][case] = _same(_digest(np.frombuffer(data, np.uint8)) for data in coded)
            answer["files"][case] = codec.encode(picture.read(source), model, quality).data.hex()
    return answer


def _decode(model: Model, folder: Path) -> dict[str, Any]:
    decoded = {}
    for path in sorted(folder.glob("*.vtl")):
        file = container.read(path.read_bytes())
        results = []
        for onednn in (True, False):
            try:
                with torch.backends.mkldnn.flags(enabled=onednn):
                    latents = model.traverse(RangeDecoder(file.latents), (file.height, file.width), file.quality)
                    y_hat = model.dequantise(latents, file.quality).cpu().numpy()
                right = codec.checksum(latents) == file.symbols_crc
                results.append(_digest(latents.y, latents.z, y_hat) if right else "wrong symbols!")
            except VitrailError:
                results.append("cannot be decoded!")
        decoded[path.stem] = _same(results)
    return {"decoded latents": decoded}


def _main(name: str, folder: str, setting: str, task: str) -> None:
    chosen = Setting(**json.loads(setting))
    torch.set_num_threads(chosen.threads)
    torch.set_float32_matmul_precision(chosen.precision)
    model = weights.load(name).to(chosen.device)
    answer = _compute(model, Path(folder)) if task == "compute" else _decode(model, Path(folder))
    print(json.dumps({**answer, "kernels": torch.backends.cpu.get_cpu_capability()}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
