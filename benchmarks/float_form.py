"""Save a shipped model's parameters as a float model: `python benchmarks/float_form.py NAME FILE`.

`vitrail eval DIR --model FILE` then shows what the exact form costs in rate.
"""

import sys
from dataclasses import replace
from pathlib import Path

from vitrail import load_model, weights
from vitrail.model import Model

_, name, file = sys.argv
exact = load_model(name)
plain = Model(replace(exact.config, exact=False))
plain.load_state_dict(exact.state_dict(), strict=False)
weights.save(plain, Path(file), {"training": f"those of {name}, in float layers"})
