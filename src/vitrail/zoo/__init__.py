"""The models that come with the package: one weights file each, found by name or by id.

A model's id is the first four bytes of the SHA-256 of its weights file. Nothing here imports torch.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

from vitrail.errors import ModelError

DEFAULT = "econtextformer-s"
_FOLDER = Path(__file__).parent
# Weights that were shipped once: a reader still names what an old file needs.
_RETIRED = {
    "ce2f5ef9": "econtextformer-s of 25 November 2026, which commit 583d51e of the repository reads",
    "911b25e0": "econtextformer-s of 26 November 2026, which commit 9bf98b4 of the repository reads",
    "74809df9": "econtextformer-s of 26 November 2026, which commit e6f8b7b of the repository reads",
    "026fdbf4": "econtextformer-s of 26 November 2026, which commit 3a68085 of the repository reads",
    "5ea7119d": "econtextformer-s of 26 November 2026, which commit 0e225fc of the repository reads",
    "8e3bd10a": "econtextformer-s of 26 November 2026, which commit 80a60d5 of the repository reads",
    "d2c17cc9": "econtextformer-s of 26 November 2026, which commit 9cc091a of the repository reads",
    "f21435c3": "econtextformer-s of 26 November 2026, which commit 7dca3ce of the repository reads",
    "832e4585": "econtextformer-s of 27 November 2026, which commit 17d4956 of the repository reads",
    "4edbc88c": "econtextformer-s of 27 November 2026, which commit d9bfb12 of the repository reads",
    "93fbc099": "econtextformer-s of 27 November 2026, which commit 7325ebe of the repository reads",
    "bd937d37": "econtextformer-s of 27 November 2026, which commit 0dd9e54 of the repository reads",
    "b15d6dfe": "econtextformer-s of 28 November 2026, which commit f511e36 of the repository reads",
    "64d0f7ee": "econtextformer-m of 26 November 2026, which commit 7dca3ce of the repository reads",
    "c3682ad3": "econtextformer-m of 27 November 2026, which commit 17d4956 of the repository reads",
    "14d43517": "econtextformer-m of 27 November 2026, which commit d9bfb12 of the repository reads",
    "b998dc96": "econtextformer-m of 27 November 2026, which commit 7325ebe of the repository reads",
    "adbe3e88": "econtextformer-m of 27 November 2026, which commit 0dd9e54 of the repository reads",
    "ca2b95ba": "econtextformer-m of 28 November 2026, which commit f511e36 of the repository reads",
    "fe195465": "econtextformer-m of 28 November 2026, which commit e24bfdb of the repository reads",
    "be00e5ab": "econtextformer-m of 28 November 2026, which commit 19aa9cb of the repository reads",
    "24a17d6b": "econtextformer-m of 26 November 2026, which commit 80a60d5 of the repository reads",
    "f897c491": "mcdh-s of 27 November 2026, which commit 17d4956 of the repository reads",
    "5c4263fe": "mcdh-s of 27 November 2026, which commit d9bfb12 of the repository reads",
    "c100b459": "mcdh-s of 27 November 2026, which commit 0dd9e54 of the repository reads",
    "a67c918e": "mcdh-s of 28 November 2026, which commit f511e36 of the repository reads",
    "572e77d5": "mcdh-s of 26 November 2026, which commit 728c4e4 of the repository reads",
    "c7dcfedc": "mcdh-s of 26 November 2026, which commit 0e225fc of the repository reads",
}


def names() -> list[str]:
    """Return the names of the models in the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def locate(name: str) -> Path:
    """Return the weights file of a model in the package, or of a path. Raises `ModelError` if there is none."""
    shipped = _FOLDER / f"{name}.safetensors"
    found = shipped if shipped.is_file() else Path(name)
    if not found.is_file():
        raise ModelError(f"no model is called {name!r}; there are {', '.join(names())}, or give a weights file")
    return found


def identity(data: bytes) -> bytes:
    """Return the id (4 bytes) of the bytes of a weights file."""
    return hashlib.sha256(data).digest()[:4]


@lru_cache
def _id(name: str) -> bytes:
    return identity(locate(name).read_bytes())


def find(model_id: bytes) -> str | None:
    """Return the name of the shipped model with this id, or None."""
    # The default first: most files need no other to be read.
    likeliest = sorted(names(), key=lambda name: name != DEFAULT)
    return next((name for name in likeliest if _id(name) == model_id), None)


def retired(model_id: bytes) -> bool:
    """Tell whether weights were in the package once; `describe` then names the commit that has them."""
    return model_id.hex() in _RETIRED


def describe(model_id: bytes) -> str:
    """Return the id in hex, with the name of the weights where they are, or were, in the package."""
    name = find(model_id) or _RETIRED.get(model_id.hex())
    return f"{model_id.hex()} ({name})" if name else model_id.hex()
