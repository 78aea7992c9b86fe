"""The data store: photographs decoded once into one memory-mapped file of uint8 samples.

A store is a folder with `pixels.bin`, all pictures as (height, width, 3) one after another, and `index.json`, their
sizes and names, with the names of the files that were left out and the reasons.
"""

import json
import math
import os
import tarfile
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from vitrail import picture
from vitrail.errors import PictureError, UsageError
from vitrail.picture import Pixels
from vitrail.storage import write_file

SMALLEST_SIDE = 256
KEPT = "kept"
_INDEX = "index.json"
_SAMPLES = "pixels.bin"
# Of scale in a batch: crops of one factor are scaled together.
_FACTORS = 8
_ARCHIVES = (".tar", ".tar.gz", ".tgz")
# No photograph is longer; what is would have to be held in memory.
_LARGEST_FILE = 2**28


class DroppedError(Exception):
    """A file is not taken into a store; the text says why, in a few words."""


class Selection(Protocol):
    """What decides on the files of a store."""

    title: str
    """Its kind and settings, by which a store knows what it was made with."""

    def prepare(self, data: bytes) -> Pixels:
        """Read a file's bytes as pixels (H, W, 3). Raises `DroppedError`. Called by several threads at once."""

    def admit(self, pixels: Pixels) -> None:
        """Raise `DroppedError` for pixels that are not to be kept beside those admitted before."""


class Everything:
    """All pictures whose sides have at least `SMALLEST_SIDE` pixels, as they are."""

    title = "all pictures"

    def prepare(self, data: bytes) -> Pixels:
        """See `Selection`."""
        try:
            pixels = picture.read(data).pixels
        except PictureError as error:
            raise DroppedError("no picture") from error
        if min(pixels.shape[:2]) < SMALLEST_SIDE:
            raise DroppedError(f"smaller than {SMALLEST_SIDE} pixels")
        return pixels

    def admit(self, pixels: Pixels) -> None:
        """Take all."""


def is_store(folder: Path) -> bool:
    """Tell whether a folder is a finished store."""
    return (folder / _INDEX).is_file() and (folder / _SAMPLES).is_file()


def build(sources: Sequence[Path], store: Path, selection: Selection) -> Counter[str]:
    """Decode the photographs of folders, and of tar archives such as WebDataset's shards, into a store.

    Files without a picture's extension, and those of over 256 MB, are passed over. A run that was cut off is gone on
    with; a finished store stays as it is. Returns how many files were kept, and dropped by reason; the index names
    them. Raises `UsageError` when nothing is kept, when the store was made from other sources or with another
    selection, or when something cannot be read or written.
    """
    try:
        return _build(sorted(str(source.resolve()) for source in sources), store, selection)
    except OSError as error:
        raise UsageError(f"{error.filename or store}: {error.strerror or error}") from error


def _build(sources: list[str], store: Path, selection: Selection) -> Counter[str]:
    origin = {"sources": sources, "selection": selection.title}
    if is_store(store):
        index = _index(store)
        _check_origin(store, index, origin)
        return _counts([*index["pictures"], *index["dropped"]])
    store.mkdir(parents=True, exist_ok=True)
    journal, samples = store / "journal.part", store / _SAMPLES
    entries: list[dict[str, Any]] = []
    journaled = _journaled(journal, store, origin)
    samples.touch()
    with open(samples, "r+b") as pixels:
        for entry in journaled:
            if "size" in entry:
                count = 3 * math.prod(entry["size"])
                if len(known := pixels.read(count)) < count:
                    pixels.seek(-len(known), os.SEEK_CUR)
                    break
                selection.admit(np.frombuffer(known, np.uint8).reshape(*entry["size"], 3))
            entries.append(entry)
        pixels.truncate()
        write_file(journal, "".join(f"{json.dumps(line)}\n" for line in [origin, *entries]).encode())
        done = {entry["name"] for entry in entries}
        found = ((name, data) for name, data in files(sources) if name not in done)
        progress = tqdm(_prepared(found, selection), desc="decoding photographs", unit=" files", initial=len(done))
        with open(journal, "a") as lines:
            for name, taken in progress:
                entry = _admitted(name, taken, selection)
                if "size" in entry:
                    pixels.write(np.asarray(taken).tobytes())
                    pixels.flush()
                # After its pixels: a line stands for what is whole.
                print(json.dumps(entry), file=lines, flush=True)
                entries.append(entry)
    counts = _counts(entries)
    if not counts[KEPT]:
        journal.unlink()
        samples.unlink()
        raise UsageError(f"no photograph to keep in {', '.join(sources)} ({counts.total()} looked at, {dict(counts)})")
    index = {
        **origin,
        "pictures": [entry for entry in entries if "size" in entry],
        "dropped": [entry for entry in entries if "dropped" in entry],
    }
    # The index comes last: a store with an index is whole.
    write_file(store / _INDEX, json.dumps(index).encode())
    journal.unlink()
    return counts


def _index(store: Path) -> dict[str, Any]:
    """Read and check a store's index."""
    try:
        index: dict[str, Any] = json.loads((store / _INDEX).read_text())
        length = sum(3 * math.prod(entry["size"]) for entry in index["pictures"])
        whole = {"sources", "selection", "dropped"} <= index.keys() and (store / _SAMPLES).stat().st_size == length
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UsageError(f"{store} is no store of this version, or is damaged; remove it, or give another folder")
    return index


def _check_origin(store: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for key, value in ours.items():
        if theirs.get(key) != value:
            raise UsageError(
                f"{store} was made of {theirs.get(key)}, not of {value}; remove it, or give another folder"
            )


def _counts(entries: Iterable[dict[str, Any]]) -> Counter[str]:
    return Counter(entry.get("dropped", KEPT) for entry in entries)


def _journaled(journal: Path, store: Path, origin: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of a run that was cut off, if any."""
    lines = journal.read_text().split("\n")[:-1] if journal.is_file() else []  # the last line may be cut
    try:
        first, *entries = [json.loads(line) for line in lines] or [origin]
    except ValueError as error:
        raise UsageError(f"{journal} is damaged; remove {store}, or give another folder") from error
    _check_origin(store, first, origin)
    return entries


def _admitted(name: str, taken: Pixels | DroppedError, selection: Selection) -> dict[str, Any]:
    """Return the entry of a file."""
    if isinstance(taken, DroppedError):
        return {"name": name, "dropped": str(taken)}
    try:
        selection.admit(taken)
    except DroppedError as reason:
        return {"name": name, "dropped": str(reason)}
    return {"name": name, "size": taken.shape[:2]}


def _prepared(found: Iterator[tuple[str, bytes]], selection: Selection) -> Iterator[tuple[str, Pixels | DroppedError]]:
    """Prepare files in threads, a few ahead, in their order."""

    def prepare(data: bytes) -> Pixels | DroppedError:
        try:
            return selection.prepare(data)
        except DroppedError as reason:
            return reason

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[str, Future[Pixels | DroppedError]]] = deque()
        for name, data in found:
            ahead.append((name, pool.submit(prepare, data)))
            if len(ahead) > 2 * workers:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()


def files(sources: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the names and bytes of all files with a picture's extension, in folders and archives."""
    suffixes = set(Image.registered_extensions())
    for source in map(Path, sources):
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.name.endswith(_ARCHIVES):
                yield from _members(path, suffixes)
            elif path.suffix.lower() in suffixes and path.is_file() and path.stat().st_size <= _LARGEST_FILE:
                yield str(path), path.read_bytes()


def _members(path: Path, suffixes: set[str]) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                wanted = Path(member.name).suffix.lower() in suffixes and member.size <= _LARGEST_FILE
                if wanted and member.isfile() and (file := archive.extractfile(member)) is not None:
                    yield f"{path}/{member.name}", file.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} is not a whole tar archive: {str(error).splitlines()[0]}") from error


class Store:
    """Random crops of a store's pictures, made on the device that holds the samples."""

    def __init__(self, store: Path, device: torch.device) -> None:
        index = _index(store)["pictures"]
        samples = torch.from_numpy(np.memmap(store / _SAMPLES, np.uint8, "c"))
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

        Three of four are scaled down by up to 2, as far as the pictures are large enough: this varies the content's
        scale and removes what an earlier lossy format left. Up to eight factors are drawn for a batch.
        """
        weights = np.where([min(size) >= crop for size in self.sizes], self.areas, 0)
        if not weights.any():
            raise UsageError(f"no photograph of the store has sides of {crop} pixels; choose a smaller crop")
        chosen = self.random.choice(len(weights), count, p=weights / weights.sum())
        crops = [self._crops(part, crop) for part in np.array_split(chosen, min(count, _FACTORS))]
        return torch.cat(crops).contiguous(memory_format=torch.channels_last)

    def _crops(self, chosen: NDArray[np.int64], crop: int) -> Tensor:
        """Return a crop of each chosen picture, all scaled by one factor."""
        smallest = min(min(self.sizes[index]) for index in chosen)
        factor = self.random.uniform(1, 2) if self.random.random() < 0.75 else 1.0
        side = min(round(crop * factor), smallest)
        pixels = torch.stack([self._cut(index, side) for index in chosen]).permute(0, 3, 1, 2).float() / 255
        if side == crop:
            return pixels
        return functional.interpolate(pixels, (crop, crop), mode="bicubic", antialias=True, align_corners=False).clamp_(
            0, 1
        )

    def _cut(self, index: int, side: int) -> Tensor:
        height, width = self.sizes[index]
        top = int(self.random.integers(height - side + 1))
        left = int(self.random.integers(width - side + 1))
        flips = [axis for axis in (0, 1) if self.random.random() < 0.5 and (axis == 1 or self.random.random() < 0.2)]
        return self.picture(index)[top : top + side, left : left + side].flip(flips)
