"""Train in float form on a GPU: `python benchmarks/gpu.py NAME STORE VALID OUT MINUTES HIGHEST EARLY [START]`.

The settings of the runs of docs/training.md, "On a GPU"; a run that is found in OUT is gone on with. `exact_form.py`
makes an exact model of what comes out. Several at once need MPS, or they take turns.
"""

import sys
from dataclasses import replace
from pathlib import Path

from vitrail.config import named
from vitrail.training import loop

name, store, valid, out, minutes, highest, early, *start = sys.argv[1:]
settings = loop.Settings(
    float(minutes),
    batch=32,
    highest=float(highest),
    early=float(early),
    decay=0.6,
    average=0.9985,
    save_minutes=1.0,
    valid_minutes=3.0,
)
found = (Path(out) / loop.CHECKPOINT).is_file()
loop.train(
    replace(named(name), exact=False), Path(store), Path(valid), Path(out), settings, found, start[0] if start else None
)
