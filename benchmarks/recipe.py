"""Compare levers of the training recipe: `python benchmarks/recipe.py STORE VALID OUT [ARM...]`.

Each arm changes one thing about the training of econtextformer-s (float form) and has `--minutes` of processor time on
one thread, two arms at a time; keep the machine quiet, since other work still costs an arm a tenth of its steps. With
`--latents MODEL` all but the context model is that model's and stays as it is. OUT/ARM.json keeps what an arm gave: a
run that was cut off goes on with the arms that are missing. The table gives BD-rates of the validation pictures'
estimated rates against the first arm; OUT/ARM.log has those along the way, after each sixth of the time.
"""

import argparse
import json
import subprocess
import sys
import time
import types
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.config import CheckerboardContext, LightTransform, NoContext, named
from vitrail.evaluation.bdrate import Curve, bd_rate
from vitrail.model import Model
from vitrail.straight import round_through
from vitrail.training import loop, optimizers
from vitrail.training.loop import Settings


@dataclass(frozen=True)
class Arm:
    """Changes to the settings, the config and the time (a factor), and code that is run before training."""

    settings: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    time: float = 1.0


def _adamw_alone(rate: float) -> Callable[[], None]:
    def prepare() -> None:
        def build(model: Model, _: float, adamw: float) -> list[torch.optim.Optimizer]:
            muon, rest = original(model, 1.0, adamw)
            weights = [weight for group in muon.param_groups for weight in group["params"]]
            alone = torch.optim.AdamW(weights, torch.tensor(rate), betas=(0.9, 0.99), weight_decay=0.0)
            alone.param_groups[0]["base_lr"] = rate
            return [alone, rest]

        original = optimizers.build
        optimizers.build = build

    return prepare


def _linear_rate(factor: float) -> Callable[[], None]:
    def prepare() -> None:
        def build(model: Model, muon: float, adamw: float) -> list[torch.optim.Optimizer]:
            built = original(model, muon, adamw)
            built[1].param_groups[0]["base_lr"] = adamw * factor  # the linear paths
            return built

        original = optimizers.build
        optimizers.build = build

    return prepare


def _blocks_at_full_rate() -> None:
    def build(model: Model, muon: float, adamw: float) -> list[torch.optim.Optimizer]:
        built = original(model, muon, adamw)
        for group in built[0].param_groups:
            group["base_lr"] = muon
        return built

    original = optimizers.build
    optimizers.build = build


def _noise_for_parameters() -> None:
    def noisy(model: Model, residual: Tensor, symbols: Tensor, parameters: Tensor, usual: Tensor) -> Tensor:
        return model.distribution.bits(model._noisy(residual, symbols), parameters, usual)

    Model._differentiable_bits = noisy  # type: ignore[method-assign]


def _rounded_rate() -> None:
    def rounded(model: Model, values: Tensor, symbols: Tensor) -> Tensor:
        return round_through(values.float()) if model.training else symbols.float()

    Model._noisy = rounded  # type: ignore[method-assign]


def _universal_noise() -> None:
    def universal(model: Model, values: Tensor, symbols: Tensor) -> Tensor:
        if not model.training:
            return symbols.float()
        noise = torch.rand(len(values), 1, 1, 1) - 0.5  # one number for all elements of a picture
        return round_through(values.float() + noise) - noise

    Model._noisy = universal  # type: ignore[method-assign]


ARMS = {
    "default": Arm(),
    "default, seed 1": Arm({"seed": 1}),
    "Muon 1e-3": Arm({"muon": 1e-3}),
    "Muon 4e-3": Arm({"muon": 4e-3}),
    "AdamW 1e-3 alone": Arm(prepare=_adamw_alone(1e-3)),
    "AdamW 2e-3 alone": Arm(prepare=_adamw_alone(2e-3)),
    "AdamW 5e-4 beside Muon": Arm({"adamw": 5e-4}),
    "AdamW 2e-3 beside Muon": Arm({"adamw": 2e-3}),
    "linear paths at AdamW's full rate": Arm(prepare=_linear_rate(1.0)),
    "linear paths fixed": Arm(prepare=_linear_rate(0.0)),
    "average 0.99": Arm({"average": 0.99}),
    "average 0.9995": Arm({"average": 0.9995}),
    "decay over the last 20 %": Arm({"decay": 0.2}),
    "decay over the last 70 %": Arm({"decay": 0.7}),
    "crops of 128 throughout": Arm({"early": 1.0}),
    "crops of 256 throughout": Arm({"early": 0.0}),
    "half the batch": Arm({"batch": 2}),
    "double batch": Arm({"batch": 8}),
    "blocks' first layers at the full rate": Arm(prepare=_blocks_at_full_rate),
    "noise for parameters too": Arm(prepare=_noise_for_parameters),
    "rate of rounded values": Arm(prepare=_rounded_rate),
    "universal noise": Arm(prepare=_universal_noise),
    "convolutional context, equal MACs": Arm(config={"context": CheckerboardContext()}),
    "no context": Arm(config={"context": NoContext()}),
    "encoder heavier": Arm(config={"transform": LightTransform(blocks=(1, 3, 1), synthesis_blocks=(1, 1, 0))}),
    "decoder heavier": Arm(config={"transform": LightTransform(blocks=(1, 1, 0), synthesis_blocks=(1, 3, 1))}),
    "half the time": Arm(time=0.5),
    "double time": Arm(time=2.0),
}


def train(name: str, given: argparse.Namespace) -> None:
    """Train one arm, and write what it gave."""
    arm, minutes = ARMS[name], given.minutes * ARMS[name].time
    torch.set_num_threads(1)
    loop.time = types.SimpleNamespace(monotonic=time.process_time)  # type: ignore[assignment]
    arm.prepare()
    settings = Settings(minutes, **{"valid_minutes": minutes / 6, "save_minutes": 1e9, **arm.settings})
    config = replace(named("econtextformer-s"), exact=False, **arm.config)
    points = loop.train(config, given.store, given.valid, given.out / name, settings, latents=given.latents)
    (given.out / name / "checkpoint.pt").unlink()
    result = {"points": [point._asdict() for point in points]}
    (given.out / f"{name}.json").write_text(json.dumps(result))


def compare(names: Sequence[str], given: argparse.Namespace) -> None:
    """Train the arms that are missing, two at a time, and print the table."""
    folder = given.out
    folder.mkdir(parents=True, exist_ok=True)

    def run(name: str) -> None:
        if not (folder / f"{name}.json").is_file():
            with (folder / f"{name}.log").open("w") as log:
                subprocess.run([sys.executable, *sys.argv, "--arm", name], check=True, stdout=log, stderr=log)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, names))
    anchor = None
    print("| arm | BD-rate, % | validation loss |\n|---|---|---|")
    for name in names:
        points = json.loads((folder / f"{name}.json").read_text())["points"]
        curve = Curve(name, tuple(p["bpp"] for p in points), tuple(p["psnr"] for p in points))
        anchor = anchor or curve
        loss = sum(point["loss"] for point in points) / len(points)
        print(f"| {name} | {bd_rate(anchor, curve):+.1f} | {loss:.4f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for place in ("store", "valid", "out"):
        parser.add_argument(place, type=Path)
    parser.add_argument("names", nargs="*", choices=[[], *ARMS], metavar="ARM")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--latents", metavar="MODEL")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        train(arguments.arm, arguments)
    else:
        compare(arguments.names or list(ARMS), arguments)
