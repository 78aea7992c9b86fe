"""Weights files, and the models that come with the package.

A weights file is a safetensors file: parameters in half precision, integer tables as they are, and in its metadata the
config and how the weights were made. A model's id is the first four bytes of the SHA-256 of the file.
"""

import hashlib
import json
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from vitrail.config import ModelConfig
from vitrail.errors import ModelError
from vitrail.model import Model

DEFAULT = "econtextformer-s"
_HERE = Path(__file__).parent


class Loaded(NamedTuple):
    """A model in evaluation mode, its id, and the metadata of its weights file."""

    model: Model
    id: bytes
    notes: dict[str, str]


def names() -> list[str]:
    """Return the names of the models in the package."""
    return sorted(path.stem for path in _HERE.glob("*.safetensors"))


def path(name: str) -> Path:
    """Return the weights file of a model in the package, or the given path. Raises `ModelError` if there is none."""
    shipped = _HERE / f"{name}.safetensors"
    found = shipped if shipped.is_file() else Path(name)
    if not found.is_file():
        raise ModelError(f"no model is called {name!r}; there are {', '.join(names())}, or give a weights file")
    return found


def identity(file: Path) -> bytes:
    """Return the id (4 bytes) of a weights file."""
    return hashlib.sha256(file.read_bytes()).digest()[:4]


def find(model_id: bytes) -> str:
    """Return the name of the shipped model with this id. Raises `ModelError` if it is not in the package."""
    for name in names():
        if identity(path(name)) == model_id:
            return name
    raise ModelError(
        f"the file needs model {model_id.hex()}, which is not in this version of Vitrail; give its weights with --model"
    )


@lru_cache(maxsize=4)
def load(name: str = DEFAULT) -> Loaded:
    """Load a model of the package by name, or a weights file by path. Raises `ModelError`.

    The same object is returned for the same name.
    """
    file = path(name)
    try:
        with safe_open(file, "pt") as opened:
            notes = opened.metadata() or {}
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is not a weights file: {error}") from error
    if "config" not in notes:
        raise ModelError(f"{file} is not a weights file of Vitrail: it holds no config")
    model = Model(ModelConfig.from_json(notes["config"]))
    try:
        model.load_state_dict({key: _wide(value) for key, value in state.items()})
    except RuntimeError as error:
        raise ModelError(f"{file} does not fit its own config; it was written by another version") from error
    model.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    return Loaded(model, identity(file), notes)


def save(model: Model, file: Path, notes: dict[str, str]) -> None:
    """Write a model's weights, whole or not at all; its tables are frozen from the stored half-precision values."""
    state = {key: value.half().cpu() if value.is_floating_point() else value.cpu() for key, value in model.state_dict().items()}
    stored = Model(model.config)
    stored.load_state_dict({key: _wide(value) for key, value in state.items()})
    stored.freeze()
    state["prior.table_rows"] = stored.prior.table_rows
    metadata = {"config": model.config.to_json(), **notes}
    data = safetensors.torch.save({key: value.contiguous() for key, value in state.items()}, metadata)
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=file.name, delete=False) as beside:
        beside.write(data)
    os.replace(beside.name, file)


def card(name: str) -> dict[str, object]:
    """Return what a weights file says of itself: config and notes."""
    notes = load(name).notes
    return {**notes, "config": json.loads(notes["config"])}


def _wide(value: torch.Tensor) -> torch.Tensor:
    return value.float() if value.is_floating_point() else value
