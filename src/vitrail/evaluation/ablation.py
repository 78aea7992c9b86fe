"""Train several configs with one budget on the same photographs, and compare them by the real bytes of their files."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vitrail.errors import UsageError, VitrailError
from vitrail.evaluation import cost
from vitrail.evaluation.bdrate import bd_rate_or_none, load_curve
from vitrail.evaluation.codecs import codec
from vitrail.evaluation.sweep import evaluate
from vitrail.storage import write_file
from vitrail.training.store import is_store
from vitrail.weights import load, notes

QUALITIES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class Budget:
    """What every run of a comparison has in common."""

    data: str
    valid: str
    minutes: float
    processes: int
    batch: int
    crop: int
    latents: str | None = None


@dataclass(frozen=True)
class Row:
    """What one run gave; BD-rate in percent against the first run (None: no PSNR in common), seconds a picture."""

    config: str
    seed: int
    training: str
    parameters: int
    kmac_encode: float
    kmac_decode: float
    encode_s: float
    decode_s: float
    bd_rate: float | None


def claim(out: Path, budget: Budget) -> None:
    """Make `out` the folder of runs with this budget. Raises `UsageError` if it holds runs with another."""
    file, mine = out / "budget.json", asdict(budget)
    if file.is_file() and (theirs := asdict(Budget(**json.loads(file.read_text())))) != mine:
        different = ", ".join(name for name in mine if theirs[name] != mine[name])
        raise UsageError(f"{out} holds runs with another budget ({different}); give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_file(file, json.dumps(mine).encode())


def run(config: str, seed: int, budget: Budget, out: Path) -> Path:
    """Train a config into `out`/CONFIG-SEED, or go on with it, unless it is finished. Returns the folder.

    Raises `VitrailError` if training fails; it has then said why.
    """
    folder = out / f"{config}-{seed}"
    if not (folder / "weights.safetensors").is_file():
        command = [sys.executable, "-m", "vitrail", "train", config, "--seed", str(seed)]
        command += ["--data", budget.data, "--valid", budget.valid]
        if not is_store(Path(budget.data)):
            command += ["--store", str(out / "store")]
        command += ["--minutes", str(budget.minutes), "--processes", str(budget.processes)]
        command += ["--batch", str(budget.batch), "--crop", str(budget.crop), "--out", str(folder)]
        if budget.latents:
            command += ["--latents", budget.latents]
        if (folder / "checkpoint.pt").is_file():
            command.append("--resume")
        if subprocess.run(command, check=False).returncode:
            raise VitrailError(f"training {config} failed; what it said stands above")
    return folder


def row(folder: Path, first: Path, pictures: Path, progress: Callable[[Sequence[Path]], Iterable[Path]]) -> Row:
    """Measure a run on pictures, once, into `folder`/report.json, and compare it with the first run."""
    file = folder / "weights.safetensors"
    report = folder / "report.json"
    if not report.is_file():
        write_file(report, evaluate(codec(str(file)), pictures, QUALITIES, progress).to_json().encode())
    points = json.loads(report.read_text())["points"]
    model = load(str(file))
    counted = cost.count(model.config)
    seconds = {key: sum(point[key] for point in points) / len(points) for key in ("encode_s", "decode_s")}
    config, _, seed = folder.name.rpartition("-")
    return Row(
        config=config,
        seed=int(seed),
        training=notes(file)["training"],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        kmac_encode=counted.encode,
        kmac_decode=counted.decode,
        bd_rate=bd_rate_or_none(load_curve(str(first / "report.json")), load_curve(str(report))),
        **seconds,
    )


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| config | seed | BD-rate, % | parameters, M | kMAC/px encode, decode | s encode, decode | training |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        cells = [
            each.config,
            str(each.seed),
            "" if each.bd_rate is None else f"{each.bd_rate:+.1f}",
            f"{each.parameters / 1e6:.2f}",
            f"{each.kmac_encode:.1f}, {each.kmac_decode:.1f}",
            f"{each.encode_s:.3f}, {each.decode_s:.3f}",
            each.training,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
