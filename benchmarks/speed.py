"""Time a model of the package, alone and beside a busy process, and its exact entropy path against a float one.

Run `python benchmarks/speed.py PICTURE [--model NAME] [--large]`; `--large` adds 4096 x 3072 pixels and peak memory.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does
START = time.perf_counter()

import torch  # noqa: E402
from PIL import Image  # noqa: E402

import vitrail  # noqa: E402
from vitrail import codec, picture, zoo  # noqa: E402
from vitrail.coding import RangeDecoder, RangeEncoder  # noqa: E402
from vitrail.model import Model  # noqa: E402


def median(call: Callable[[], object], runs: int = 7) -> float:
    """Return the median of the seconds of some calls, after one that is not timed."""
    call()
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def report(label: str, source: picture.Picture, model: Model) -> None:
    """Print what encoding and decoding take, and the range coder's part of it."""
    data, encode_coder = codec.encode(source, model, 50)
    decode_coder = codec.decode(data, model).coder_seconds
    encode = median(lambda: codec.encode(source, model, 50))
    decode = median(lambda: codec.decode(data, model))
    a = torch.rand(1024, 1024)
    speed = 1024**3 / median(lambda: a @ a) / 1e9
    print(
        f"{label}: encode {encode:.3f} s (coder {encode_coder:.3f}), decode {decode:.3f} s (coder {decode_coder:.3f})"
    )
    print(
        f"  in the same minute a float32 1024^3 product ran at {speed:.0f} GMAC/s on {torch.get_num_threads()} threads"
    )


def main(path: Path, name: str, large: bool) -> None:
    """Print all figures."""
    model = vitrail.load_model(name)
    print(f"import of torch and load of the model: {time.perf_counter() - START:.2f} s")
    source = picture.read(path)
    height, width = source.pixels.shape[:2]
    report(f"{width} x {height}, quality 50", source, model)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        report("beside one busy process", source, model)
    finally:
        busy.kill()

    plain = model.in_floats().eval()
    plain.identity = model.identity
    report("the same parameters in float layers", source, plain)
    x = torch.from_numpy(source.pixels).permute(2, 0, 1)[None].float() / 255
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as `codec` does
    seconds = []
    for each in (model, plain):
        latents = each.latents(x, 50)._replace(features=None, walk=None, values=None)
        encoder = RangeEncoder()
        each.traverse(encoder, (height, width), 50, latents)
        data = encoder.finish()
        encode = partial(each.traverse, latents=latents)
        for call, coder in ((encode, RangeEncoder), (each.traverse, partial(RangeDecoder, data))):
            seconds.append(median(lambda call=call, coder=coder: call(coder(), (height, width), 50)))
    for way, exact, floating in zip(("encode", "decode"), seconds[:2], seconds[2:], strict=True):
        print(f"entropy path, {way}: exact {exact:.3f} s, float {floating:.3f} s, ratio {exact / floating:.2f}")
    torch.set_num_threads(threads)
    if large:
        source = picture.read(Image.fromarray(source.pixels).resize((4096, 3072)))
        began = time.perf_counter()
        data = codec.encode(source, model, 50).data
        encoded = time.perf_counter()
        codec.decode(data, model)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        times = f"encode {encoded - began:.1f} s, decode {time.perf_counter() - encoded:.1f} s"
        print(f"4096 x 3072: {times}, {len(data)} bytes, peak of memory {peak:.1f} GiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--model", default=zoo.DEFAULT)
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    main(arguments.picture, arguments.model, arguments.large)
