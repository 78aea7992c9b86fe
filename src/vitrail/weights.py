"""Weights files: a model's parameters and tables on disk.

A safetensors file holds the parameters in half precision, those of exact layers, and of linear ones whose rows lie on
such grids, as 8-bit integers with an exponent a row (older files: in half precision), the integer tables as they are,
and in its metadata the config and how the weights were made. So a file is all that is needed to build the model. That
of an exact model also holds the checksum of a small fixed latent's bytes: a machine that computes others is refused
before it codes anything.
"""

import json
import os
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vitrail import exact, zoo
from vitrail.coding import RangeDecoder, RangeEncoder
from vitrail.config import ModelConfig
from vitrail.errors import FormatError, ModelError
from vitrail.model import STRIDE, Latents, Model
from vitrail.storage import write_file
from vitrail.threads import one_thread

_NUMBERS, _EXPONENTS = "numbers", "exponents"


def load(name: str | os.PathLike[str] = zoo.DEFAULT) -> Model:
    """Load a model of the package by name, or a weights file by path, for coding on the CPU. Raises `ModelError`."""
    file = zoo.locate(os.fspath(name))
    try:
        data = file.read_bytes()
        state = safetensors.torch.load(data)
        notes = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} is not a weights file: {error}") from error
    if "config" not in notes:
        raise ModelError(f"{file} is not a weights file of Vitrail: it holds no config")
    with one_thread():
        model = _build(ModelConfig.from_json(notes["config"]), state, file)
    model.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        differs = model.config.exact and notes.get("probe") != _probe(model)
    except ModelError:
        raise
    except Exception as error:  # weights and tables from a damaged file can fail in any way
        raise ModelError(f"{file} cannot be used: it is damaged, or of another version") from error
    if differs:
        raise ModelError(f"this machine computes other numbers than the maker of {file} did; report its processor")
    model.identity = zoo.identity(data)
    return model


def notes(name: str | os.PathLike[str]) -> dict[str, str]:
    """Return what `save` was told of how the weights were made, of a model of the package or a file."""
    with safetensors.safe_open(zoo.locate(os.fspath(name)), "pt") as opened:
        return {key: note for key, note in opened.metadata().items() if key not in ("config", "probe")}


def shared(name: str) -> Model:
    """Return `load(name)`, the same object for as long as the file stays the same. It must not be changed."""
    return _shared(name, zoo.locate(name).stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _shared(name: str, modified: int) -> Model:
    return load(name)


def save(model: Model, file: Path, notes: dict[str, str]) -> None:
    """Write a model's weights, whole or not at all; its tables are frozen from the stored half-precision values."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.half().isfinite().all()):
            raise ModelError(f"the model cannot be saved: {name} holds values that half precision cannot")
    state = {
        key: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for key, value in model.state_dict().items()
    }
    stored = _build(model.config, state, file).eval()
    stored.freeze()
    state |= {name: value for name, value in stored.state_dict().items() if ".table_" in name}
    for name, layer in stored.named_modules():
        if isinstance(layer, exact.OnGrids | nn.Linear):
            matrix = layer.matrix() if isinstance(layer, exact.OnGrids) else layer.weight.detach()
            numbers, exponents = exact.pack(matrix)
            if torch.equal(exact.unpack(numbers, exponents), matrix):
                del state[f"{name}.weight"]
                state[f"{name}.{_NUMBERS}"], state[f"{name}.{_EXPONENTS}"] = numbers, exponents
    metadata = {"config": model.config.to_json(), **({"probe": _probe(stored)} if model.config.exact else {}), **notes}
    write_file(file, safetensors.torch.save(state, metadata))


def _probe(model: Model) -> str:
    """Return the checksum of the bytes that a small fixed latent takes, and of what is decoded from them."""
    height, width, quality = 9, 10, 50
    y, z = (
        (np.arange(channels * h * w, dtype=np.int32) * 7 % 11 - 5).reshape(channels, h, w)
        for channels, h, w in ((model.config.latents, height, width), (model.hyperprior.channels, 3, 3))
    )
    encoder = RangeEncoder()
    size = (STRIDE * height, STRIDE * width)
    model.eval().traverse(encoder, size, quality, Latents(y, z))
    data = encoder.finish()
    try:
        decoded = model.traverse(RangeDecoder(data), size, quality)
    except FormatError as error:
        raise ModelError(
            "encoder and decoder compute different numbers on this machine; do not use the model"
        ) from error
    return f"{zlib.crc32(decoded.y.tobytes(), zlib.crc32(data)):08x}"


def _build(config: ModelConfig, state: dict[str, Tensor], file: Path) -> Model:
    wide = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    try:
        with torch.device("cpu"):  # whatever the user's default device and type are
            model = Model(config).float()
        for name, layer in model.named_modules():
            if isinstance(layer, exact.OnGrids | nn.Linear) and f"{name}.{_NUMBERS}" in wide:
                numbers, exponents = wide.pop(f"{name}.{_NUMBERS}"), wide.pop(f"{name}.{_EXPONENTS}")
                if f"{name}.weight" in wide:
                    raise ValueError(f"{name} has two weights")
                matrix = exact.unpack(numbers, exponents)
                wide[f"{name}.weight"] = layer.from_matrix(matrix) if isinstance(layer, exact.OnGrids) else matrix
        model.load_state_dict(wide)
    except ModelError:
        raise
    except Exception as error:  # a config from a damaged file can fail in any way
        raise ModelError(f"{file} does not fit its own config; it is damaged, or of another version") from error
    if any(not bool(value.isfinite().all()) for value in wide.values()):
        raise ModelError(f"{file} is damaged: it holds values that are not finite")
    return model
