"""Round linear layers to 8 bits a weight, as they are then stored: `python benchmarks/eight_bits.py WEIGHTS PART FILE`.

PART is the beginning of the layers' names, such as transform.encoder_stages: those of an analysis, whose error only
makes an encoder's choice a little worse.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from vitrail import weights
from vitrail.exact import grid

if __name__ == "__main__":
    _, source, part, file = sys.argv
    model = weights.load(source)
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear) and name.startswith(part):
                layer.weight.copy_(grid.rows(layer.weight))
    weights.save(model, Path(file), weights.notes(source))
