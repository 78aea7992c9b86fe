"""Make the golden files anew, after the shipped weights have changed: `python tests/golden/make.py`.

Until version 1.0 this may happen; CHANGELOG then says which files no longer decode.
"""

import hashlib
import json
from pathlib import Path

from PIL import Image

import vitrail
from vitrail import container
from vitrail.coding import RangeDecoder
from vitrail.model import Model

HERE = Path(__file__).parent
# Left, top, right, bottom of the example photograph; mode; quality; model.
CASES = {
    "color": ((330, 120, 426, 184), "RGB", 20, "econtextformer-s"),
    "odd": ((300, 80, 361, 125), "RGB", 60, "econtextformer-s"),
    "gray": ((400, 200, 433, 233), "L", 95, "econtextformer-s"),
    "mcdh": ((330, 120, 391, 184), "RGB", 40, "mcdh-s"),
}


def hashes(data: bytes, model: Model) -> dict[str, str]:
    """Return the SHA-256 of a file's symbols (int32, z then y) and of its decoded latents (float32)."""
    file = container.read(data)
    latents = model.traverse(RangeDecoder(file.latents), (file.height, file.width), file.quality)
    symbols = latents.z.astype("<i4").tobytes() + latents.y.astype("<i4").tobytes()
    y_hat = model.dequantise(latents, file.quality).numpy().astype("<f4").tobytes()
    return {"symbols": hashlib.sha256(symbols).hexdigest(), "latents": hashlib.sha256(y_hat).hexdigest()}


if __name__ == "__main__":
    photo = Image.open(HERE.parent.parent / "examples" / "photo.webp")
    expected = {}
    for name, (box, mode, quality, model) in CASES.items():
        data = vitrail.compress(photo.crop(box).convert(mode), quality, model)
        (HERE / f"{name}.vtl").write_bytes(data)
        expected[name] = hashes(data, vitrail.load_model(model))
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
