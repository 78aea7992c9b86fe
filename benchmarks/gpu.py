"""Train in float form on a GPU: `python benchmarks/gpu.py NAME STORES VALID OUT MINUTES HIGHEST START DRAWN BATCH`.

Made for a machine that is lent for minutes (docs/training.md, "On a GPU"). STORES is a folder of stores, each moved
there when it is whole; the last by name is read, also when it comes later. The weights START, a model's name or a file,
are trained at HIGHEST times the usual learning rates until MINUTES after the start, by the clock on the wall; then they
are saved and validated. DRAWN is the share of the BATCH crops of a step that are no photographs. While a child of the
program compiles the step, which takes a minute or more, the parent trains as it can; then it hands over. Several
programs at once need MPS, or they take turns.
"""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers.tensorboard import TensorBoardLogger
from torch import Tensor

from vitrail.config import named
from vitrail.model import Model
from vitrail.precision import fast_bf16
from vitrail.training import generated, loop, validation
from vitrail.training.store import Store

_DRAWINGS = 64
_LOOK_STEPS = 25

name, stores, valid, out, minutes, highest, start, share, batch, *child = sys.argv[1:]
settings = loop.Settings(
    float(minutes),
    batch=int(batch),
    highest=float(highest),
    early=0.0,
    average=0.9985,
    save_minutes=1.0,
    valid_minutes=2.0,
    generated=float(share),
    compile=bool(child),
)
began = float(child[0]) if child else time.time()
ready, given = Path(out) / "ready", Path(out) / "given"  # an offer of the child, and the parent's answer


def last() -> Path:
    """Return the last store, when there is one."""
    while not (whole := sorted(file.parent for file in Path(stores).glob("*/index.json"))):
        time.sleep(0.1)
    return whole[-1]


class Run(loop._Run):
    """A run by the clock on the wall, of photographs that may become more, and of which another may go on."""

    folder: Path | None = None
    data: Store
    child: subprocess.Popen[bytes] | None = None

    @property
    def progress(self) -> float:
        """The share of the time that is over."""
        return min(1.0, (time.time() - began) / (60 * self.settings.minutes))

    def train_step(self, data: Store) -> Tensor:
        """See `loop`."""
        if self.step % _LOOK_STEPS == 0:
            self.look()
            if self.child is not None and ready.exists():
                self.save()
                given.touch()
                sys.exit(self.child.wait())
        return super().train_step(self.data)

    def look(self) -> None:
        """Read the last store, if it is another."""
        if (found := last()) != self.folder:
            self.folder, self.data = found, Store(found, self.fabric.device)
            self.data.seed(self.step)


Path(out).mkdir(parents=True, exist_ok=True)
logger = TensorBoardLogger(out, name="log", version=str(settings.compile))
fabric = Fabric(devices=1, precision="bf16-mixed" if fast_bf16() else "32-true", loggers=logger)
fabric.launch()
# Drawn once: to draw and copy them at every step would hold up the GPU.
drawn = generated.crops(np.random.default_rng(0), _DRAWINGS, settings.crop).to(fabric.device)
generated.crops = lambda random, count, side: drawn[random.integers(_DRAWINGS, size=count)]
model = Model(replace(named(name), exact=False))
model.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
loop.begin_with(model, start)
run = Run(fabric, model, Path(out), settings)
run.look()
if child:
    run.train_step(run.data)  # compiles
    ready.touch()
    while not given.exists():
        if run.progress == 1:
            sys.exit("compiled too late")
        time.sleep(0.05)
    run.load(run.data)
    run.replay = None  # what it recorded is no longer there
    run.data.seed(run.step)
    torch.manual_seed(run.step)
else:
    for file in (ready, given):
        file.unlink(missing_ok=True)
    run.child = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], str(began)])
run.go(run.data, validation.pictures(Path(valid)), exact=False)
