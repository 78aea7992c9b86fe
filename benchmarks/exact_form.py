"""Save float weights as an exact model: `python benchmarks/exact_form.py WEIGHTS STORE FILE`.

A run on a GPU may leave its model in floats (`exact=False` in the config): its grids are then calibrated here, on crops
of a store, and no parameter changes.
"""

import sys
from pathlib import Path

import torch

from vitrail import weights
from vitrail.training import loop
from vitrail.training.store import Store

_, given, store, file = sys.argv
torch.manual_seed(0)
model = loop.exact_form(weights.load(given))
loop.calibrate(model, Store(Path(store), torch.device("cpu")))
weights.save(model, Path(file), {**weights.notes(given), "grids": "calibrated afterwards"})
