"""The `.vtl` file: header, chunks, checksum. Knows nothing of networks; `docs/format.md` is its text."""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from vitrail.errors import FormatError, UsageError

MAGIC = b"\x89VTL"
VERSION = 1
MAX_SIDE = 2**16 - 1
MAX_PIXELS = 2**26
MAX_METADATA = 2**24

GRAY_FLAG = 1
RESEARCH_FLAG = 2


class Field(NamedTuple):
    """One little-endian number or byte string: its name, its `struct` code, what it means."""

    name: str
    code: str
    meaning: str


HEADER = (
    Field("magic", "4s", "`89 56 54 4C`, that is `\\x89VTL`"),
    Field("version", "B", "format version, 1"),
    Field("model id", "4s", "first four bytes of the SHA-256 of the model's weights"),
    Field("width", "H", "in pixels, 1 to 65535"),
    Field("height", "H", "in pixels, 1 to 65535"),
    Field("quality", "B", "1 to 100"),
    Field("flags", "B", "bit 0: gray; bit 1: research model; all other bits zero"),
)
"""The header. Writer and reader walk this table, `docs/format.md` prints it."""

_HEADER = struct.Struct("<" + "".join(field.code for field in HEADER))
_CHUNK = struct.Struct("<4sI")  # name, length of the payload
_U32 = struct.Struct("<I")  # the CRC-32 of the symbols and the one of the file
_METADATA = (("iccp", "icc"), ("exif", "exif"), ("xmpd", "xmp"))  # chunk, attribute of VtlFile


@dataclass(frozen=True)
class VtlFile:
    """What a `.vtl` file says.

    Attributes:
        model_id: first four bytes of the SHA-256 of the model's weights.
        width: pixels, 1 to 65535; `width * height` is at most `MAX_PIXELS`.
        height: pixels, 1 to 65535.
        quality: 1 to 100.
        gray: the picture has one channel.
        research: float entropy path, decodes only where the kernels give the same numbers.
        symbols_crc: CRC-32 of the decoded symbols.
        latents: bytes of the range coder.
        alpha: (height, width) uint8, or None for an opaque picture.
        icc: ICC profile, at most `MAX_METADATA` bytes as the two below.
        exif: EXIF block.
        xmp: XMP packet.

    """

    model_id: bytes
    width: int
    height: int
    quality: int
    gray: bool
    research: bool
    symbols_crc: int
    latents: bytes
    alpha: npt.NDArray[np.uint8] | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None


def size_fault(width: int, height: int) -> str | None:
    """Say what is wrong with a picture of `width` x `height` pixels; None if it can be coded."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        return f"{width} x {height} pixels, but a side has 1 to {MAX_SIDE}"
    if width * height > MAX_PIXELS:
        return f"{width} x {height} pixels are more than {MAX_PIXELS} in all"
    return None


def write(file: VtlFile) -> bytes:
    """Return the bytes of a `.vtl` file: 31 more than `file.latents` if there are no optional parts.

    Raises:
        UsageError: a value does not fit the format.

    """
    if fault := size_fault(file.width, file.height) or _quality_fault(file.quality):
        raise UsageError(fault)
    if len(file.model_id) != 4 or not 0 <= file.symbols_crc < 2**32:
        raise UsageError("a model id has 4 bytes, and the CRC-32 of the symbols 32 bits")
    flags = GRAY_FLAG * file.gray | RESEARCH_FLAG * file.research
    values = (MAGIC, VERSION, file.model_id, file.width, file.height, file.quality, flags)
    parts = [_HEADER.pack(*values), _chunk(b"LATS", _U32.pack(file.symbols_crc) + file.latents)]
    if file.alpha is not None:
        parts.append(_chunk(b"ALPH", _write_alpha(file.alpha, file.width, file.height)))
    for name, attribute in _METADATA:
        payload: bytes | None = getattr(file, attribute)
        if payload is None:
            continue
        if len(payload) > MAX_METADATA:
            raise UsageError(
                f"{attribute.upper()} data of {len(payload)} bytes, but a .vtl file takes at most "
                f"{MAX_METADATA}; shorten it or leave it out"
            )
        parts.append(_chunk(name.encode(), payload))
    body = b"".join(parts)
    return body + _U32.pack(zlib.crc32(body))


def read(data: bytes) -> VtlFile:
    """Return what the bytes of a whole `.vtl` file say; all sizes are checked before memory is taken.

    Raises:
        FormatError: another kind of file, a newer one, a damaged or a truncated one.

    """
    if not data.startswith(MAGIC):
        raise FormatError("not a .vtl file")
    if len(data) > len(MAGIC) and data[len(MAGIC)] > VERSION:
        raise FormatError(f"written by a newer Vitrail (format {data[len(MAGIC)]}); update Vitrail to read it")
    end = len(data) - _U32.size
    if end < _HEADER.size or zlib.crc32(memoryview(data)[:end]) != _U32.unpack_from(data, end)[0]:
        raise FormatError("the .vtl file is damaged or truncated; fetch or write it again")
    _, version, model_id, width, height, quality, flags = _HEADER.unpack_from(data)
    if version != VERSION:
        raise FormatError(f"format {version} of a .vtl file does not exist")
    if fault := size_fault(width, height) or _quality_fault(quality):
        raise FormatError(f"a .vtl file of {fault}")
    if flags & ~(GRAY_FLAG | RESEARCH_FLAG):
        raise FormatError(f"the .vtl file has unknown flags ({flags:#04x}); update Vitrail to read it")
    chunks = _read_chunks(data, end)
    symbols = chunks["LATS"]
    alpha = chunks.get("ALPH")
    return VtlFile(
        model_id=model_id,
        width=width,
        height=height,
        quality=quality,
        gray=bool(flags & GRAY_FLAG),
        research=bool(flags & RESEARCH_FLAG),
        symbols_crc=_U32.unpack_from(symbols)[0],
        latents=symbols[_U32.size :],
        alpha=None if alpha is None else _read_alpha(alpha, width, height),
        **{attribute: chunks.get(name) for name, attribute in _METADATA},
    )


def _quality_fault(quality: int) -> str | None:
    return None if 1 <= quality <= 100 else f"quality {quality}, but it is 1 to 100"


def _chunk(name: bytes, payload: bytes) -> bytes:
    return _CHUNK.pack(name, len(payload)) + payload


def _read_chunks(data: bytes, end: int) -> dict[str, bytes]:
    """Return the payloads of the known chunks between the header and `end`, by name."""
    known = {"LATS", "ALPH", *(name for name, _ in _METADATA)}
    chunks: dict[str, bytes] = {}
    at = _HEADER.size
    while at < end:
        if end - at < _CHUNK.size:
            raise FormatError(f"the .vtl file has {end - at} bytes too many after its last chunk")
        raw, length = _CHUNK.unpack_from(data, at)
        at += _CHUNK.size
        if not raw.isalpha():
            raise FormatError(f"the .vtl file has a chunk whose name is not four letters: {raw!r}")
        name = raw.decode("ascii")
        if length > end - at:
            raise FormatError(f"chunk {name} of the .vtl file says {length} bytes, but {end - at} are left")
        if name not in known and name[0].isupper():
            raise FormatError(f"the .vtl file needs its chunk {name}, unknown here; update Vitrail to read it")
        if name in chunks:
            raise FormatError(f"the .vtl file has two chunks {name}, but one is allowed")
        if not chunks and name != "LATS":
            raise FormatError(f"the .vtl file begins with chunk {name} instead of LATS")
        if name[0].islower() and name in known and length > MAX_METADATA:
            raise FormatError(f"chunk {name} of the .vtl file has {length} bytes, more than {MAX_METADATA}")
        if name in known:
            chunks[name] = data[at : at + length]
        at += length
    if len(chunks.get("LATS", b"")) < _U32.size:
        raise FormatError("the .vtl file has no latents")
    return chunks


def _write_alpha(alpha: npt.NDArray[np.uint8], width: int, height: int) -> bytes:
    if alpha.dtype != np.uint8 or alpha.shape != (height, width):
        raise UsageError(
            f"alpha of {alpha.dtype} and shape {alpha.shape}; give uint8 of {(height, width)}, as the picture"
        )
    buffer = io.BytesIO()
    Image.fromarray(alpha).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _read_alpha(payload: bytes, width: int, height: int) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(payload), formats=("PNG",)) as image:  # decodes no pixels yet
            if (image.mode, image.size) != ("L", (width, height)):
                raise FormatError(f"the .vtl file's alpha plane is no 8-bit gray PNG of {width} x {height}")
            return np.array(image)
    except FormatError:
        raise
    except Exception as error:  # PNG decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise FormatError("the alpha plane of the .vtl file is damaged") from error
