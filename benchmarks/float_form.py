"""Save the default model's parameters as a float model: `python benchmarks/float_form.py FILE`.

`vitrail eval DIR --model FILE` then shows what the exact form costs in rate.
"""

import sys
from dataclasses import replace
from pathlib import Path

from vitrail import load_model, weights
from vitrail.model import Model

exact = load_model()
plain = Model(replace(exact.config, exact=False))
plain.load_state_dict(exact.state_dict(), strict=False)
weights.save(plain, Path(sys.argv[1]), {"training": f"those of {exact.config.name}, in float layers"})
