"""What coding a picture takes: seconds, memory, multiply-accumulates; each model in a process of its own.

Run as a module, this file is that process: it prints its row as JSON.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from vitrail import codec, picture, weights, zoo
from vitrail.config import CONFIGS, named
from vitrail.errors import UsageError, VitrailError
from vitrail.evaluation import cost
from vitrail.model import Model

QUALITY = 50
Result = TypeVar("Result")


@dataclass(frozen=True)
class Row:
    """What one model takes for one picture."""

    name: str
    trained: bool
    device: str
    photo: str | None
    """The picture whose middle was coded; None for a generated one."""
    width: int
    height: int
    parameters: int
    kmac: dict[str, float]
    """Thousands of multiply-accumulates a pixel, by part and for the whole of encoding and decoding."""
    encode_s: float
    """Median seconds, picture in memory to file in memory; `encode_coder_s` of the last in the range coder."""
    encode_coder_s: float
    decode_s: float
    decode_coder_s: float
    peak_mib: float
    """The largest memory of the process, or of the GPU."""
    bpp: float
    """Bits per pixel; of the generated picture it says little of photographs, of an untrained model nothing."""

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.width * self.height / 1e6


def run(name: str, size: tuple[int, int], device: str, runs: int, photo: Path | None = None) -> Row:
    """Measure a model of the package, a weights file or a config, untrained, on a picture of (width, height).

    The picture is the middle of `photo`, mirrored where it is smaller, or else a generated one. `runs` is at least 1;
    the first of several is not counted. Raises `VitrailError` if that fails.
    """
    command = [
        sys.executable,
        "-m",
        __name__,
        name,
        *map(str, size),
        device,
        str(runs),
        *([str(photo)] if photo else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VitrailError(f"{name}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return Row(**json.loads(done.stdout))


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| model | picture, device | parameters, M | kMAC/px encode: analysis, hyperprior, context, filter | "
        "decode: hyperprior, context, synthesis, filter | s encode (coder) | s decode (coder) | peak, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        k = row.kmac
        hyper = k["hyper_analysis"] + k["hyper_synthesis_encode"], k["hyper_synthesis"]
        cells = [
            row.name if row.trained else f"{row.name}, untrained",
            f"{row.width} x {row.height}, {row.device}",
            f"{row.parameters / 1e6:.2f}",
            f"{k['encode']:.1f}: {k['analysis']:.1f}, {hyper[0]:.1f}, {k['context_encode']:.1f}, "
            f"{k['post_filter_encode']:.1f}",
            f"{k['decode']:.1f}: {hyper[1]:.1f}, {k['context_decode']:.1f}, {k['synthesis']:.1f}, "
            f"{k['post_filter']:.1f}",
            f"{row.encode_s:.3f} ({row.encode_coder_s:.3f})",
            f"{row.decode_s:.3f} ({row.decode_coder_s:.3f})",
            f"{row.peak_mib:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def load(file: Path) -> list[Row]:
    """Read rows that `vitrail bench --json` printed. Raises `UsageError`."""
    try:
        return [Row(**row) for row in json.loads(file.read_text("utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{file} is not what vitrail bench --json prints ({error})") from error


def growth(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return the exponent b of quantity = a pixels^b for models at several sizes, by least squares of logarithms."""
    found = {}
    for name in dict.fromkeys(row.name for row in rows):
        mine = [row for row in rows if row.name == name]
        pixels = np.log([row.megapixels for row in mine])
        if len(set(pixels)) > 1:
            quantities = {
                "encode": "encode_s",
                "decode": "decode_s",
                "peak memory": "peak_mib",
                "bits per pixel": "bpp",
            }
            found[name] = {
                what: float(np.polyfit(pixels, np.log([getattr(row, field) for row in mine]), 1)[0])
                for what, field in quantities.items()
            }
    return found


def growth_lines(rows: Sequence[Row]) -> list[str]:
    """Return a line for each model at several sizes that tells its growth."""
    return [
        f"{name}: " + ", ".join(f"{what} ~ pixels^{slope:.2f}" for what, slope in slopes.items())
        for name, slopes in growth(rows).items()
    ]


# -- the child -------------------------------------------------------------------------------------------------------


def _picture(width: int, height: int, photo: str | None) -> picture.Picture:
    if photo is not None:
        pixels = picture.read(photo).pixels
        for axis, side in enumerate((height, width)):
            cut = max(0, pixels.shape[axis] - side) // 2
            pixels = pixels.take(range(cut, min(pixels.shape[axis], cut + side)), axis)
            missing = [(0, 0)] * 3
            missing[axis] = (0, side - pixels.shape[axis])
            pixels = np.pad(pixels, missing, "symmetric")
        return picture.read(np.ascontiguousarray(pixels))
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([128 + 90 * np.sin(x / (19 + 7 * k)) * np.cos(y / (23 - 5 * k)) for k in range(3)], 2)
    noise = np.random.default_rng(0).normal(0, 6, smooth.shape)
    return picture.read((smooth + noise).clip(0, 255).astype(np.uint8))


def _model(name: str, source: picture.Picture) -> tuple[Model, bool]:
    if name not in CONFIGS or name in zoo.names():
        return weights.load(name), True
    model = Model(named(name)).requires_grad_(False)
    pixels = torch.from_numpy(source.pixels).permute(2, 0, 1).float() / 255
    model.fit(pixels.unfold(1, 16, 16).unfold(2, 16, 16).permute(1, 2, 0, 3, 4).flatten(0, 1))
    model.eval().freeze()
    model.identity = bytes(4)
    return model.to(memory_format=torch.channels_last), False  # type: ignore[call-overload]


def _timed(call: Callable[[], Result], runs: int) -> tuple[Result, float]:
    """Return the last result of some calls and the median of their seconds, without the first's if there are more."""
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
    return result, statistics.median(seconds[1:] or seconds)


def _measure(name: str, width: int, height: int, device: str, runs: int, photo: str | None = None) -> Row:
    source = _picture(width, height, photo)
    model, trained = _model(name, source)
    model.to(device)
    encoded, encode_s = _timed(lambda: codec.encode(source, model, QUALITY), runs)
    decoded, decode_s = _timed(lambda: codec.decode(encoded.data, model), runs)
    on_gpu = torch.device(device).type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counted = cost.count(model.config, (-height % 64 + height, -width % 64 + width))
    return Row(
        name=name,
        trained=trained,
        device=device,
        photo=photo,
        width=width,
        height=height,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        kmac={**counted._asdict(), "encode": counted.encode, "decode": counted.decode},
        encode_s=encode_s,
        encode_coder_s=encoded.coder_seconds,
        decode_s=decode_s,
        decode_coder_s=decoded.coder_seconds,
        peak_mib=peak / 2**20,
        bpp=8 * len(encoded.data) / (width * height),
    )


if __name__ == "__main__":
    name, width, height, device, runs, *photo = sys.argv[1:]
    print(json.dumps(asdict(_measure(name, int(width), int(height), device, int(runs), *photo))))
