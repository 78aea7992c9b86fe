"""Save a shipped model's parameters as a float model: `python benchmarks/float_form.py NAME FILE`.

`vitrail eval DIR --model FILE` then shows what the exact form costs in rate.
"""

import sys
from pathlib import Path

from vitrail import load_model, weights

_, name, file = sys.argv
weights.save(load_model(name).in_floats(), Path(file), {"training": f"those of {name}, in float layers"})
