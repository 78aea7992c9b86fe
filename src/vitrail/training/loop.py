"""The training loop: rate-distortion loss over all qualities at once, on a budget of time spent in steps."""

import atexit
import copy
import math
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from tqdm import tqdm

from vitrail import weights
from vitrail.config import ModelConfig
from vitrail.errors import UsageError
from vitrail.model import Model
from vitrail.precision import fast_bf16
from vitrail.training import generated, optimizers, validation
from vitrail.training.loss import RateDistortion
from vitrail.training.replay import Replay
from vitrail.training.store import SMALLEST_SIDE, Store

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "weights.safetensors"
FLAT = "flat.safetensors"
LATEST = "latest.safetensors"
_LOG_STEPS = 20
_CALIBRATION_BATCHES = 8


@dataclass(frozen=True)
class Settings:
    """How a run is made; shares are of the time budget, `batch` counts the crops of one process.

    The learning rates rise over `warmup` to `highest` times their bases, stay flat, and fall linearly to `lowest` over
    the last `decay`: a run can be left to another to finish, which begins where this one ends. Over the first
    `early`, crops have half the side, and there are four times as many. A model that is to be exact is so over the
    last `exact`. `generated` is the share of crops that are no photographs (see `generated`). With `compile`,
    `torch.compile` makes the kernels of the float form: a minute or more for each size of crops, which is not counted.
    """

    minutes: float
    crop: int = 256
    batch: int = 4
    muon: float = 2e-3
    adamw: float = 1e-3
    highest: float = 1.0
    lowest: float = 0.0
    warmup: float = 0.02
    decay: float = 0.4
    early: float = 0.6
    exact: float = 0.05
    generated: float = 0.0
    compile: bool = False
    average: float = 0.998
    save_minutes: float = 3.0
    valid_minutes: float = 10.0
    seed: int = 0
    processes: int = 1

    def rate(self, progress: float) -> float:
        """Return the factor on the learning rates at a share 0..1 of the budget."""
        falling = self.lowest + (self.highest - self.lowest) * max(0.0, 1 - progress) / self.decay
        return min(self.highest, self.highest * progress / self.warmup, falling)

    def shape(self, progress: float) -> tuple[int, int]:
        """Return the count and the side of a step's crops at a share 0..1 of the budget."""
        return (4 * self.batch, self.crop // 2) if progress < self.early else (self.batch, self.crop)


def stratified_qualities(count: int, device: torch.device) -> Tensor:
    """Return `count` qualities, one from each equal stratum of 1..100, in random order."""
    places = (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count
    return 1 + 99 * places


def train(
    config: ModelConfig,
    store: Path,
    valid: Path,
    out: Path,
    settings: Settings,
    resume: bool = False,
    start: str | None = None,
    latents: str | None = None,
) -> list[validation.Point]:
    """Train a model, write `out`/weights.safetensors with averaged weights, and return its validation points.

    A run begins with `start`, a model's name or a weights file of the same config, or is fitted to the photographs.
    With `latents`, weights of a config that differs in context and distribution at most, all but the context model is
    taken from there and stays as it is: it tells what context models are worth for the same latents.
    `out`/checkpoint.pt and the averaged weights so far, `out`/latest.safetensors, are renewed every few minutes, and
    `resume` goes on from the former, up to the same or another total of minutes; `out`/flat.safetensors holds the
    averaged weights of the moment before the decay; `out`/log is for TensorBoard. A model that is to be exact is
    trained in its float form, which takes half the time, and in its exact form at the end (docs/training.md). Raises
    `VitrailError`.
    """
    pictures = validation.pictures(valid)
    out.mkdir(parents=True, exist_ok=True)
    # The momentum of a dead channel fades into denormal floats, which are a hundred times slower.
    torch.set_flush_denormal(True)
    fabric = launch(
        settings.processes,
        accelerator="auto",
        precision="bf16-mixed" if fast_bf16() else "32-true",
        loggers=TensorBoardLogger(out, name="log", version=""),
    )
    data = Store(store, fabric.device)
    torch.manual_seed(settings.seed)
    model = Model(replace(config, exact=False))
    model.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if latents is not None:
        keep_latents(model, latents)
    elif start is None:
        model.fit(data.patches())
    else:
        begin_with(model, start)
    run = _Run(fabric, model, out, settings)
    if resume:
        run.load(data)
    # By the step too: a run that is resumed must not see the same crops again.
    data.seed(settings.seed, fabric.global_rank, run.step)
    torch.manual_seed(hash((settings.seed, fabric.global_rank, run.step)))
    run.go(data, pictures, config.exact)
    return run.points


def launch(processes: int, **options: Any) -> Fabric:
    """Start the processes of a run on this machine, or join those that torchrun started, on one machine or many.

    `options` are Fabric's others.
    """
    machines = 1
    if torch.distributed.is_torchelastic_launched():
        processes = int(os.environ["LOCAL_WORLD_SIZE"])
        machines = int(os.environ["WORLD_SIZE"]) // processes
    strategy = "ddp" if processes * machines > 1 else "auto"
    fabric = Fabric(devices=processes, num_nodes=machines, strategy=strategy, **options)
    fabric.launch()
    if torch.distributed.is_initialized():
        atexit.register(torch.distributed.destroy_process_group)  # gloo's threads else abort some
    if fabric.world_size > 1 and fabric.device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    return fabric


def begin_with(model: Model, start: str) -> None:
    """Give a float model the parameters of a weights file of the same config; what only coding knows changes none."""
    given = weights.load(start)
    coding = {name: getattr(model.config, name) for name in ("centroid", "trellis")}
    if replace(given.config, exact=False, **coding) != model.config:
        raise UsageError(f"{start} is not of the config {model.config.name} as it is now; leave --start away")
    model.load_state_dict(given.in_floats().state_dict(), strict=False)
    model.freeze()  # or it would be validated by the tables of another version


def with_latents_of(config: ModelConfig, name: str) -> Model:
    """Return other weights whose latents a config has too. Raises `UsageError` where it has not."""
    given = weights.load(name)
    like = replace(given.config, name=config.name, context=config.context, distribution=config.distribution)
    if replace(like, exact=config.exact, trellis=config.trellis) != config:
        raise UsageError(f"{name} has other latents than the config {config.name}; give weights with its other parts")
    return given


def keep_latents(model: Model, name: str) -> None:
    """Give a float model all but the context model of other weights, and leave only the context model to train."""
    state = with_latents_of(model.config, name).in_floats().state_dict()
    model.load_state_dict({key: each for key, each in state.items() if not key.startswith("context.")}, strict=False)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key.startswith("context."))


def exact_form(model: Model) -> Model:
    """Return a float model as an exact one with the same parameters; its grids are still to be calibrated."""
    exact = Model(replace(model.config, exact=True))
    missing, unexpected = exact.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith(".largest") for name in missing)
    for mine, theirs in zip(exact.parameters(), model.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    return exact.to(model.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def calibrate(model: Model, data: Store) -> None:
    """Let an exact model's grids hold what crops of all rates need."""
    for _ in range(_CALIBRATION_BATCHES):
        model(data.batch(8, SMALLEST_SIDE), stratified_qualities(8, model.device))


class _Run:
    """A run's state, what it does in a step, and what it writes."""

    def __init__(self, fabric: Fabric, model: Model, out: Path, settings: Settings) -> None:
        self.fabric, self.out, self.settings = fabric, out, settings
        self._adopt(model, copy.deepcopy(model).requires_grad_(False))
        self.compiled: set[tuple[int, int]] = set()
        self.step = self.crops = 0
        self.seconds = 0.0
        # On the device, where a recorded step changes them.
        self.norm = torch.tensor(math.inf, device=fabric.device)
        self.skipped = torch.tensor(0, device=fabric.device)
        self.points: list[validation.Point] = []

    def _adopt(self, model: Model, average: Model) -> None:
        settings = self.settings
        self.model = model
        module: nn.Module = RateDistortion(model)
        if settings.compile and not model.config.exact:
            module = torch.compile(module, dynamic=False)  # type: ignore[assignment]
        self.module = self.fabric.setup_module(module)
        built = optimizers.build(model, settings.muon, settings.adamw)
        self.optimizers: list[Any] = list(self.fabric.setup_optimizers(*built))
        self.average = average
        self.replay: Replay | None = None

    def become_exact(self, data: Store) -> None:
        """Go on with the exact form of the model, its average and the optimizers' states."""
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        model, average = exact_form(self.model), exact_form(self.average)
        calibrate(model, data)
        for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
        self._adopt(model, average)
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)

    @property
    def progress(self) -> float:
        return self.seconds / (60 * self.settings.minutes)

    # -- what it writes ------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        optimizer_states = {f"optimizer{index}": item for index, item in enumerate(self.optimizers)}
        counters = [self.step, self.crops, self.seconds, self.model.config.exact]
        counters += [int(self.skipped), float(self.norm)]
        return {"module": self.module, "average": self.average, "counters": counters, **optimizer_states}

    def load(self, data: Store) -> None:
        try:
            if self.fabric.load(self.out / CHECKPOINT)["counters"][3]:
                self.become_exact(data)
            state = self._state()
            self.fabric.load(self.out / CHECKPOINT, state)
        except Exception as error:  # torch raises nearly anything for damaged and for foreign checkpoints
            raise UsageError(
                f"{self.out / CHECKPOINT} cannot be resumed: damaged, of another model, or with other --latents"
            ) from error
        self.step, self.crops, self.seconds, _, skipped, norm = state["counters"]
        self.skipped.fill_(skipped)
        self.norm.fill_(norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["lr"].to(self.fabric.device)

    def save(self) -> None:
        part = self.out / f"{CHECKPOINT}.part"
        self.fabric.save(part, self._state())
        if self.fabric.is_global_zero:
            os.replace(part, self.out / CHECKPOINT)

    def export(self, name: str) -> None:
        processes = f"{self.fabric.world_size} processes on {self.fabric.device.type}"
        notes = {
            "training": f"{self.step} steps, {self.crops} crops, {self.seconds / 60:.1f} minutes, {processes}",
            "settings": str(self.settings),
        }
        weights.save(self.average, self.out / name, notes)

    # -- what it does --------------------------------------------------------------------------------------------

    def go(self, data: Store, pictures: list[Tensor], exact: bool) -> None:
        saved = validated = time.monotonic()
        flat = self.progress < 1 - self.settings.decay
        totals: list[Tensor] = []
        layout = "{percentage:3.0f}%|{bar}| {elapsed}{postfix}"
        done, quiet = min(self.progress, 1.0), not self.fabric.is_global_zero
        with tqdm(total=1.0, initial=done, miniters=0, bar_format=layout, disable=quiet) as bar:
            while self.progress < 1:
                began = time.monotonic()
                if exact and not self.model.config.exact and self.progress >= 1 - self.settings.exact:
                    self.become_exact(data)
                if flat and self.progress >= 1 - self.settings.decay:
                    flat = False
                    if self.fabric.is_global_zero:
                        self.export(FLAT)
                compiles = self.settings.compile and self.settings.shape(self.progress) not in self.compiled
                totals.append(self.train_step(data))
                if self.step % _LOG_STEPS == 0:
                    bar.set_postfix(self.log(torch.stack(totals).mean(0)), refresh=False)
                    totals = []
                now = time.monotonic()
                # One clock for all processes: their schedules must agree.
                elapsed, to_save, to_validate = self.fabric.broadcast(
                    (
                        0.0 if compiles else now - began,
                        now - saved > 60 * self.settings.save_minutes,
                        now - validated > 60 * self.settings.valid_minutes,
                    )
                )
                self.seconds += elapsed
                bar.update(min(self.progress, 1) - bar.n)
                if to_save:
                    self.save()
                    if self.fabric.is_global_zero:
                        self.export(LATEST)
                    saved = time.monotonic()
                if to_validate:
                    self.validate(pictures)
                    validated = time.monotonic()
        if exact and not self.model.config.exact:  # a run of very few steps
            self.become_exact(data)
        self.save()
        self.validate(pictures)
        if self.fabric.is_global_zero:
            self.export(WEIGHTS)

    def train_step(self, data: Store) -> Tensor:
        """Make a step. Returns the loss and its parts (4,)."""
        optimizers.set_rates(self.optimizers, self.settings.rate(self.progress))
        shape = self.settings.shape(self.progress)
        x = data.batch(*shape)
        share = self.settings.generated
        if share and (count := int(data.random.binomial(len(x), share))):
            x[:count] = generated.crops(data.random, count, x.shape[2])
        quality = stratified_qualities(len(x), x.device)
        if self.settings.compile and shape not in self.compiled:
            with torch.no_grad():
                self.model(x, quality)  # makes what depends on the size alone, which is then remembered: not compiled
            self.compiled.add(shape)
        if x.device.type == "cuda" and self.fabric.world_size == 1 and not self.model.config.exact:
            if self.replay is None or self.replay.shapes[0] != x.shape:
                self.replay = None  # frees its memory first
                self.replay = Replay(self.update, x, quality)
            result = self.replay(x, quality).clone()
        else:
            result = self.update(x, quality)
        self.step += 1
        self.crops += len(x) * self.fabric.world_size
        self.follow()
        return result

    def update(self, x: Tensor, quality: Tensor) -> Tensor:
        """Change the parameters after crops (B, 3, H, W). Returns the loss and its parts (4,)."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        try:
            loss, parts = self.module(x, quality)
            self.fabric.backward(loss)
        except TorchDynamoException as error:
            raise UsageError(f"torch.compile failed ({type(error).__name__}); leave --compile away") from error
        self.clip()
        for optimizer in self.optimizers:
            optimizer.step()
        return torch.cat([loss.detach()[None], parts])

    @torch.no_grad()
    def follow(self) -> None:
        """Move the average; early on it keeps less, or it would lag a tenth of the run.

        (`AveragedModel` would wait for the GPU at every step.)
        """
        kept = min(self.settings.average, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - kept)
        torch._foreach_copy_(list(self.average.buffers()), list(self.model.buffers()))

    @torch.no_grad()
    def clip(self) -> None:
        """Clip the gradient at twice its running mean: a spike does little harm, and growth is followed.

        A gradient that is not finite counts as zero, and as skipped.
        """
        gradients = [each.grad for each in self.model.parameters() if each.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        most, sound = 2 * self.norm, norm.isfinite()
        for gradient in gradients:
            gradient.nan_to_num_(0, 0, 0)
        torch._foreach_mul_(gradients, torch.where(sound, (most / norm).clamp(max=1), 0.0))
        followed = torch.where(most.isinf(), norm, 0.95 * self.norm + 0.05 * torch.minimum(norm, most))
        self.norm.copy_(torch.where(sound, followed, self.norm))
        self.skipped += ~sound

    def log(self, means: Tensor) -> dict[str, float]:
        loss, y_bpp, z_bpp, mse = means.tolist()
        values = {
            "loss": loss,
            "bpp": y_bpp + z_bpp,
            "z_bpp": z_bpp,
            "psnr": -10 * math.log10(max(mse, 1e-10)),
            "muon_rate": self.settings.muon * self.settings.rate(self.progress),
            "adamw_rate": self.settings.adamw * self.settings.rate(self.progress),
            "gradient_norm": float(self.norm),
            "skipped": int(self.skipped),
            "crops_per_second": self.crops / max(self.seconds, 1e-9),
        }
        self.fabric.log_dict({f"train/{name}": value for name, value in values.items()}, self.step)
        return {name: values[name] for name in ("loss", "bpp", "psnr", "crops_per_second")}

    def validate(self, pictures: list[Tensor]) -> None:
        if self.fabric.is_global_zero:
            with validation.SilentUnits(self.average) as silent:
                self.points, sheet = validation.measure(self.average, pictures)
            values = {"valid/loss": sum(point.loss for point in self.points) / len(self.points)}
            values["valid/silent_units"] = silent.share()
            for point in self.points:
                values |= {f"valid/bpp_q{point.quality}": point.bpp, f"valid/psnr_q{point.quality}": point.psnr}
            self.fabric.log_dict(values, self.step)
            cast(TensorBoardLogger, self.fabric.logger).experiment.add_image(
                "valid", sheet, self.step, dataformats="HWC"
            )
            curve = ", ".join(f"{point.bpp:.3f} bpp {point.psnr:.2f} dB" for point in self.points)
            idle = f"{silent.share():.0%} of hidden units silent"
            tqdm.write(f"step {self.step}: valid loss {values['valid/loss']:.4f}: {curve}; {idle}", sys.stderr)
        self.fabric.barrier()
