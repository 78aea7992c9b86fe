"""The data store: photographs decoded once into one memory-mapped file of uint8 samples.

A store is a folder with `pixels.bin`, all pictures as (height, width, 3) one after another, and `index.json`, their
sizes and names.
"""

import json
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from vitrail import picture
from vitrail.errors import PictureError, UsageError
from vitrail.storage import write_file

SMALLEST_SIDE = 256


def build(source: Path, store: Path) -> None:
    """Decode the photographs of a folder, and of the tar archives in it, into a store, unless it holds them already.

    Files that are no pictures, and pictures whose smaller side is under `SMALLEST_SIDE`, are left out, and counted on
    standard error. Raises `UsageError` when nothing is left, or when the store was made from another folder.
    """
    origin = str(source.resolve())
    if (store / "index.json").is_file():
        made_from = json.loads((store / "index.json").read_text())["source"]
        if made_from != origin:
            raise UsageError(f"{store} was made from {made_from}; remove it, or give another --store")
        return
    store.mkdir(parents=True, exist_ok=True)
    pictures: list[dict[str, object]] = []
    left_out = 0
    with open(store / "pixels.part", "wb") as pixels:
        for name, data in tqdm(_files(source), desc="decoding photographs", unit=" files"):
            try:
                decoded = picture.read(data).pixels
            except PictureError:
                decoded = np.zeros((0, 0, 3), np.uint8)
            if min(decoded.shape[:2]) < SMALLEST_SIDE:
                left_out += 1
                continue
            pixels.write(decoded.tobytes())
            pictures.append({"name": name, "size": decoded.shape[:2]})
    if not pictures:
        raise UsageError(f"{source} holds no photograph with sides of at least {SMALLEST_SIDE} pixels")
    if left_out:
        print(f"{left_out} files left out: no pictures, or smaller than {SMALLEST_SIDE} pixels", file=sys.stderr)
    os.replace(store / "pixels.part", store / "pixels.bin")
    # The index comes last: a store with an index is whole.
    write_file(store / "index.json", json.dumps({"source": origin, "pictures": pictures}).encode())


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(source.rglob("*")):
        if path.suffix == ".tar":
            try:
                with tarfile.open(path) as archive:
                    for member in archive:
                        if (file := archive.extractfile(member)) is not None:
                            yield f"{path.name}/{member.name}", file.read()
            except tarfile.TarError as error:
                raise UsageError(f"{path} is not a tar archive: {error}") from error
        elif path.is_file():
            yield str(path.relative_to(source)), path.read_bytes()


class Store:
    """Random crops of a store's pictures, made on the device that holds the samples."""

    def __init__(self, store: Path, device: torch.device) -> None:
        index = json.loads((store / "index.json").read_text())["pictures"]
        samples = torch.from_numpy(np.memmap(store / "pixels.bin", np.uint8, "c"))
        self.samples = samples.to(device)
        self.sizes = [tuple(entry["size"]) for entry in index]
        lengths = np.array([3 * height * width for height, width in self.sizes])
        self.starts = np.cumsum(lengths) - lengths
        self.areas = lengths
        self.seed(0)

    def seed(self, *numbers: int) -> None:
        """Start the sequence of crops that these numbers stand for."""
        self.random = np.random.default_rng(numbers)

    def picture(self, index: int) -> Tensor:
        """Return a picture (H, W, 3) uint8."""
        height, width = self.sizes[index]
        start = int(self.starts[index])
        return self.samples[start : start + 3 * height * width].view(height, width, 3)

    def patches(self) -> Tensor:
        """Return 16384 patches (N, 3, 16, 16) in 0..1, for a linear transform's fit."""
        cut = self.batch(1024, 64).unfold(2, 16, 16).unfold(3, 16, 16)
        return cut.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)

    def batch(self, count: int, crop: int) -> Tensor:
        """Return crops (count, 3, crop, crop) in 0..1, pictures drawn by area, flipped at random.

        Three of four, where the picture is large enough, are scaled down by up to 2: this varies the content's scale
        and removes what an earlier lossy format left.
        """
        weights = np.where([min(size) >= crop for size in self.sizes], self.areas, 0)
        if not weights.any():
            raise UsageError(f"no photograph of the store has sides of {crop} pixels; choose a smaller crop")
        chosen = self.random.choice(len(weights), count, p=weights / weights.sum())
        crops = [self._crop(int(index), crop) for index in chosen]
        return torch.stack(crops).contiguous(memory_format=torch.channels_last)

    def _crop(self, index: int, crop: int) -> Tensor:
        height, width = self.sizes[index]
        most = min(2.0, height / crop, width / crop)
        factor = self.random.uniform(1, most) if most > 1 and self.random.random() < 0.75 else 1.0
        side = min(round(crop * factor), height, width)
        top = int(self.random.integers(height - side + 1))
        left = int(self.random.integers(width - side + 1))
        pixels = self.picture(index)[top : top + side, left : left + side].permute(2, 0, 1).float() / 255
        if side != crop:
            pixels = functional.interpolate(
                pixels[None], (crop, crop), mode="bicubic", antialias=True, align_corners=False
            )[0].clamp(0, 1)
        flips = [axis for axis in (1, 2) if self.random.random() < 0.5 and (axis == 2 or self.random.random() < 0.2)]
        return pixels.flip(flips)
