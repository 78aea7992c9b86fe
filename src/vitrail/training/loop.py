"""The training loop: rate-distortion loss over all qualities at once, on a budget of wall-clock time."""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning_fabric
import torch
from lightning_fabric.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from vitrail import zoo
from vitrail.config import ModelConfig
from vitrail.model import Model
from vitrail.training import optimizers, validation
from vitrail.training.loss import RateDistortion
from vitrail.training.store import Store
from vitrail.transforms.light import PATCH, LightTransform


@dataclass(frozen=True)
class Settings:
    """How a run is made; shares are of the time budget.

    `batch` counts crops of a process. The learning rate rises over `warmup`, stays flat, and falls linearly to zero
    over the last `decay`.
    """

    minutes: float
    crop: int = 256
    batch: int = 8
    muon: float = 2e-3
    adamw: float = 1e-3
    warmup: float = 0.02
    decay: float = 0.45
    ema: float = 0.998
    save_minutes: float = 3.0
    valid_minutes: float = 10.0
    seed: int = 0
    processes: int = 1

    def rate(self, progress: float) -> float:
        """Return the factor on the learning rate at a share 0..1 of the budget."""
        return max(0.0, min(1.0, progress / self.warmup, (1 - progress) / self.decay))


def stratified_qualities(count: int, device: torch.device) -> Tensor:
    """Return `count` qualities, one from each equal stratum of 1..100, in random order."""
    places = (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count
    return 1 + 99 * places


def train(config: ModelConfig, store: Path, valid: Path, out: Path, settings: Settings, resume: bool) -> None:
    """Train a model and write `out`/weights.safetensors (averaged weights), a log and validation pictures.

    `out`/checkpoint.pt is renewed every few minutes; `resume` goes on from it. At the start of the decay
    `out`/flat.safetensors keeps the weights that a longer run would go on from.
    """
    torch.set_flush_denormal(True)
    fabric = lightning_fabric.Fabric(
        accelerator="auto",
        devices=settings.processes,
        strategy="ddp" if settings.processes > 1 else "auto",
        precision="bf16-mixed",
        loggers=CSVLogger(out, name="log", version="", flush_logs_every_n_steps=1),
    )
    fabric.launch()
    if fabric.world_size > 1 and fabric.device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // fabric.world_size))
    fabric.seed_everything(settings.seed + fabric.global_rank, verbose=False)
    data = Store(store, fabric.device, settings.seed + fabric.global_rank)
    torch.manual_seed(settings.seed)
    with fabric.init_module():
        model = Model(config)
    if isinstance(model.transform, LightTransform):
        patches = data.batch(512, 64)
        model.transform.fit_linear(patches.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(
            0, 2, 3, 1, 4, 5).flatten(0, 2))
    model.to(memory_format=torch.channels_last)
    loss_module = fabric.setup_module(RateDistortion(model))
    optimizer = fabric.setup_optimizers(*optimizers.build(model, settings.muon, settings.adamw))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
    run = _Run(fabric, loss_module, list(optimizer), average, out, settings)
    if resume:
        run.load()
    run.go(data, validation.pictures(valid))


class _Run:
    """The state of a run, what it does in a step, and what it writes."""

    def __init__(
        self,
        fabric: lightning_fabric.Fabric,
        module: Any,
        optimizer: list[Any],
        average: AveragedModel,
        out: Path,
        settings: Settings,
    ) -> None:
        self.fabric, self.module, self.optimizers, self.average = fabric, module, optimizer, average
        self.out, self.settings = out, settings
        self.model: Model = module.module.model
        self.step, self.elapsed, self.crops, self.skipped = 0, 0.0, 0, 0
        self.norm = math.nan
        self.flat_saved = False

    @property
    def progress(self) -> float:
        return self.elapsed / (60 * self.settings.minutes)

    def state(self) -> dict[str, Any]:
        return {
            "module": self.module,
            "average": self.average,
            **{f"optimizer{index}": optimizer for index, optimizer in enumerate(self.optimizers)},
            "counters": [self.step, self.elapsed, self.crops, self.skipped, self.norm, self.flat_saved],
        }

    def load(self) -> None:
        state = self.state()
        self.fabric.load(self.out / "checkpoint.pt", state)
        self.step, self.elapsed, self.crops, self.skipped, self.norm, self.flat_saved = state["counters"]

    def save(self) -> None:
        self.fabric.save(self.out / "checkpoint.part", self.state())
        if self.fabric.is_global_zero:
            os.replace(self.out / "checkpoint.part", self.out / "checkpoint.pt")

    def export(self, name: str, model: Model) -> None:
        if self.fabric.is_global_zero:
            zoo.save(model, self.out / name, self.notes())

    def notes(self) -> dict[str, str]:
        s = self.settings
        return {
            "trained": f"{self.step} steps, {self.crops} crops of {s.crop}, {self.elapsed / 60:.1f} minutes, "
            f"{self.fabric.world_size} processes on {self.fabric.device.type}",
            "settings": str(s),
            "entropy": "float",
        }

    def go(self, data: Store, pictures: list[Tensor]) -> None:
        settings, fabric = self.settings, self.fabric
        saved = validated = clock = time.monotonic()
        totals: list[Tensor] = []
        bar = tqdm(total=100, unit="%", disable=not fabric.is_global_zero, bar_format="{l_bar}{bar}| {elapsed} {postfix}")
        while self.progress < 1:
            for group, base in optimizers.rates(self.optimizers):
                group["lr"] = base * settings.rate(self.progress)
            if self.progress > 1 - settings.decay and not self.flat_saved:
                self.flat_saved = True
                self.export("flat.safetensors", self.average.module)
            totals.append(self.train_step(data))
            now = time.monotonic()
            # One clock for all processes: their schedules must agree.
            self.elapsed = float(fabric.broadcast(self.elapsed + now - clock))
            clock = now
            if self.step % 20 == 0:
                bar.set_postfix_str(self.log(totals, time.monotonic()))
                bar.n = round(100 * min(1.0, self.progress), 1)
                bar.refresh()
                totals = []
            due = fabric.broadcast((now - saved > 60 * settings.save_minutes, now - validated > 60 * settings.valid_minutes))
            if due[0]:
                self.save()
                saved = clock = time.monotonic()
            if due[1]:
                self.validate(pictures)
                validated = clock = time.monotonic()
        bar.close()
        self.save()
        self.validate(pictures)
        self.export("weights.safetensors", self.average.module)

    def train_step(self, data: Store) -> Tensor:
        settings = self.settings
        x = data.batch(settings.batch, settings.crop)
        loss, parts = self.module(x, stratified_qualities(len(x), x.device))
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.fabric.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 2 * self.norm if self.norm == self.norm else 1e9)
        self.step += 1
        self.crops += len(x) * self.fabric.world_size
        if torch.isfinite(norm):
            # Twice the running norm: a spike is cut, growth is followed.
            self.norm = min(float(norm), 2 * self.norm) * 0.05 + self.norm * 0.95 if self.norm == self.norm else float(norm)
            for optimizer in self.optimizers:
                optimizer.step()
            self.average.update_parameters(self.model)
        else:
            self.skipped += 1
        return torch.cat([loss.detach()[None], parts])

    def log(self, totals: list[Tensor], now: float) -> str:
        loss, y_bpp, z_bpp, mse = torch.stack(totals).mean(0).tolist()
        values = {
            "loss": loss,
            "bpp": y_bpp + z_bpp,
            "z_bpp": z_bpp,
            "psnr_of_mean_mse": -10 * math.log10(max(mse, 1e-10)),
            "lr_factor": self.settings.rate(self.progress),
            "gradient_norm": self.norm,
            "skipped": self.skipped,
            "crops_per_second": self.crops / max(self.elapsed, 1e-9),
            "minutes": self.elapsed / 60,
        }
        self.fabric.log_dict(values, self.step)
        return f"step {self.step} loss {loss:.4f} bpp {y_bpp + z_bpp:.3f} z {z_bpp:.4f} grad {self.norm:.2f} {values['crops_per_second']:.1f} crops/s"

    def validate(self, pictures: list[Tensor]) -> None:
        if self.fabric.is_global_zero:
            sheet = self.out / f"step{self.step:06d}.png"
            points = validation.measure(self.average.module, pictures, sheet)
            values = {"valid_loss": sum(point.loss for point in points) / len(points)}
            for point in points:
                values |= {f"valid_bpp_q{point.quality}": point.bpp, f"valid_psnr_q{point.quality}": point.psnr}
            self.fabric.log_dict(values, self.step)
            curve = ", ".join(f"{point.bpp:.3f} bpp {point.psnr:.2f} dB" for point in points)
            tqdm.write(f"step {self.step}: valid loss {values['valid_loss']:.4f}: {curve}")
        self.fabric.barrier()
