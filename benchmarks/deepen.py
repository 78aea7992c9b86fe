"""Begin a config with weights of other counts of blocks: `python benchmarks/deepen.py WEIGHTS CONFIG OUT`.

For light transforms, whose widths stay. What a stage has more of begins as nothing, and changes no picture; of what it
has fewer, the last are left away.
"""

import sys
from dataclasses import replace
from pathlib import Path

from torch import nn

from vitrail import load_model, weights
from vitrail.config import named
from vitrail.layers import ResidualBlock
from vitrail.model import Model

_, source, config, out = sys.argv
given = load_model(source).in_floats().state_dict()
model = Model(replace(named(config), exact=False))
for block in model.modules():
    if isinstance(block, ResidualBlock):
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
mine = model.state_dict()
model.load_state_dict({name: value for name, value in given.items() if name in mine}, strict=False)
weights.save(model, Path(out), {"training": f"those of {source}, with other counts of blocks"})
