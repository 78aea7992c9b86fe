"""Code pictures, and compare what is decoded with what the encoder saw, the rate with its estimate.

Run `python benchmarks/roundtrip.py [--model NAME] PICTURE...`; exit status 1 if one differs, or if a file's length is
farther than 1 % + 32 bytes from what the forward pass and the filter's tables estimate.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from vitrail import codec, load_model, picture, zoo
from vitrail.coding import Estimator

QUALITIES = (10, 50, 100)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("pictures", nargs="+", type=Path)
parser.add_argument("--model", default=zoo.DEFAULT)
arguments = parser.parse_args()
model = load_model(arguments.model)
different, gaps = 0, []
for path in arguments.pictures:
    source = picture.read(path)
    x = torch.from_numpy(source.pixels).permute(2, 0, 1)[None].float() / 255
    for quality in QUALITIES:
        latents, own = model.with_filter(x, model.latents(x, quality), quality), Estimator()
        if model.post_filter is not None:
            model.post_filter.code(own, latents.filter)
        expected = codec.reconstruct(model, latents, source.pixels.shape[:2], quality)
        data = codec.encode(source, model, quality).data
        different += not np.array_equal(np.asarray(codec.decode(data, model).image), expected)
        with torch.no_grad():
            output = model(x, quality)
        estimate = (float(output.y_bits.double().sum() + output.z_bits.double().sum()) + own.bits) / 8
        gaps.append(abs(len(data) - estimate) / (0.01 * estimate + 32))
print(
    f"{len(gaps)} files: {different} decode otherwise than the encoder saw; at most {max(gaps):.2f} of the gap allowed"
)
sys.exit(different > 0 or max(gaps) > 1)
