"""Weights files: a model's parameters and tables on disk.

A safetensors file holds the parameters in half precision, the integer tables as they are, and in its metadata the
config and how the weights were made. So a file is all that is needed to build the model. That of an exact model also
holds the checksum of a small fixed latent's bytes: a machine that computes others is refused before it codes anything.
"""

import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitrail import zoo
from vitrail.coding import RangeEncoder
from vitrail.config import ModelConfig
from vitrail.errors import ModelError
from vitrail.model import STRIDE, Latents, Model
from vitrail.picture import write_file


def load(name: str = zoo.DEFAULT) -> Model:
    """Load a model of the package by name, or a weights file by path, for coding on the CPU.

    The same object is returned while the file stays the same. Raises `ModelError`.
    """
    file = zoo.locate(name)
    return _load(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _load(file: Path, modified: int) -> Model:
    try:
        with safe_open(file, "pt") as opened:
            notes = opened.metadata() or {}
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is not a weights file: {error}") from error
    if "config" not in notes:
        raise ModelError(f"{file} is not a weights file of Vitrail: it holds no config")
    model = _build(ModelConfig.from_json(notes["config"]), state, file)
    if model.config.exact and notes.get("probe") != _probe(model):
        raise ModelError(
            f"this machine computes other numbers than the maker of {file} did; please report its processor"
        )
    model.identity = zoo.identity(file)
    return model.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save(model: Model, file: Path, notes: dict[str, str]) -> None:
    """Write a model's weights, whole or not at all; its tables are frozen from the stored half-precision values."""
    state = {
        key: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for key, value in model.state_dict().items()
    }
    stored = _build(model.config, state, file)
    stored.freeze()
    state["prior.table_rows"] = stored.prior.table_rows
    metadata = {"config": model.config.to_json(), "probe": _probe(stored), **notes}
    write_file(file, safetensors.torch.save(state, metadata))


def _probe(model: Model) -> str:
    """Return the checksum of the bytes that a small fixed latent takes."""
    height, width, quality = 9, 10, 50
    y, z = (
        (np.arange(channels * h * w, dtype=np.int32) * 7 % 11 - 5).reshape(channels, h, w)
        for channels, h, w in ((model.config.latents, height, width), (model.hyperprior.channels, 3, 3))
    )
    encoder = RangeEncoder()
    model.eval().traverse(encoder, (STRIDE * height, STRIDE * width), quality, Latents(y, z))
    return f"{zlib.crc32(encoder.finish()):08x}"


def _build(config: ModelConfig, state: dict[str, Tensor], file: Path) -> Model:
    wide = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    try:
        model = Model(config)
        model.float().load_state_dict(wide)  # whatever the user's default type is
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{file} does not fit its own config; it was written by another version") from error
    return model
