"""Pictures of any kind that Pillow opens, as the 8-bit RGB pixels that the codec takes, and back."""

import contextlib
import io
import os
import warnings
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from vitrail.container import MAX_PIXELS, size_fault
from vitrail.errors import PictureError
from vitrail.storage import write_file

Pixels = npt.NDArray[np.uint8]
Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | Pixels

_GRAY = {"1", "L", "LA", "La"}
_WIDE = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_OTHER_COLOURS = {"CMYK", "HSV", "LAB", "YCbCr"}

# Pillow spreads gray of few bits over 0..255, but leaves its transparent value unscaled (1 bit: it once did).
_KEY_SCALE = {"1": 255, "L;2": 85, "L;4": 17}

_EXIF_HEAD = b"Exif\0\0"
_XMP_TAG = 700
_SRGB_GAMMA = 0.45455

# TIFF tags that say how that file stores its pixels, and XMP and ICC, which we keep apart from EXIF.
_STORAGE_TAGS = {*range(254, 267), 273, *range(277, 282), 284, 317, 320, *range(322, 326), 330, 338, 339, 347}
_STORAGE_TAGS |= {*range(512, 522), *range(529, 533), 34675, _XMP_TAG}

_ALL = ("L", "LA", "RGB", "RGBA")
_OPAQUE = ("L", "RGB")

# What `save` writes: the modes that come back as they were, and options that spare a decoded picture
# a second visible loss. Pillow writes more kinds, but those quantise, resize or flatten silently.
_FORMATS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "PNG": (_ALL, {}),
    "WEBP": (_ALL, {"lossless": True, "exact": True}),
    "TIFF": (_ALL, {}),
    "AVIF": (_ALL, {"quality": 95}),
    "JPEG2000": (_ALL, {}),
    "TGA": (_ALL, {}),
    "JPEG": (_OPAQUE, {"quality": 95}),
    "PPM": (_OPAQUE, {}),
    "BMP": (_OPAQUE, {}),
}


_WITHOUT_METADATA = {"JPEG2000", "TGA", "PPM", "BMP"}
_METADATA = {"icc_profile": "ICC profile", "exif": "EXIF", "xmp": "XMP"}


@dataclass(frozen=True)
class Picture:
    """A picture as the codec takes it.

    Attributes:
        pixels: (height, width, 3) uint8, RGB, as stored: EXIF orientation is kept, not applied.
        gray: the source has a single channel; decode back to mode L.
        alpha: (height, width) uint8, 255 opaque; None where everything is opaque.
        icc: ICC profile, byte for byte.
        exif: EXIF block as Pillow's `info["exif"]`, byte for byte.
        xmp: XMP packet, byte for byte.
        warnings: what is not kept, a sentence each.

    """

    pixels: Pixels
    gray: bool
    alpha: Pixels | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    warnings: tuple[str, ...] = ()


def read(source: Source) -> Picture:
    """Read a picture of any mode from a path, bytes, binary stream, Pillow image or array.

    Kept are the pixels in 8 bits, alpha unless it is 255 everywhere, ICC, EXIF and XMP. What is lost of
    samples, colours, frames, profile or texts is said in `warnings`, as far as Pillow tells: of 10-bit
    AVIF, for one, it shows 8 bits only. Resolution and gamma fields are not kept.
    TIFF is turned upright by Pillow itself.

    Args:
        source: an array is uint8 of shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA.

    Raises:
        PictureError: nothing that can be read, a damaged picture, or one of more than `MAX_PIXELS`.

    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the picture"
    try:
        with _open(source) as image:
            return _from_image(image)
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from error.__cause__
    except Exception as error:  # on damaged files Pillow's decoders raise nearly anything
        raise PictureError(f"{name}: {_reason(error)}") from error


def to_image(picture: Picture) -> Image.Image:
    """Return a Pillow image of mode L, LA, RGB or RGBA, with `icc_profile`, `exif`, `xmp` in its `info`."""
    image = Image.fromarray(picture.pixels)
    if picture.gray:
        image = image.convert("L")  # leaves equal channels as they are, weighs unequal ones as luma
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    metadata = {"icc_profile": picture.icc, "exif": picture.exif, "xmp": picture.xmp}
    image.info.update({key: value for key, value in metadata.items() if value is not None})
    return image


def save(
    image: Image.Image,
    target: str | os.PathLike[str] | BinaryIO,
    format: str | None = None,  # noqa: A002
) -> tuple[str, ...]:
    """Save an image of mode L, LA, RGB or RGBA. Returns what is not kept, a sentence each.

    PNG, WebP, JPEG and AVIF keep ICC, EXIF and XMP; TIFF too, though it spreads EXIF over its own tags;
    JPEG 2000, TGA, PPM and BMP keep none. JPEG and AVIF are written with quality 95, the others lossless.

    Args:
        image: what `to_image` gives.
        target: path, written whole or not at all; or a binary stream.
        format: Pillow's name of the format; by the path's extension if not given.

    Raises:
        PictureError: unknown format, a mode or a size that it cannot hold, or a path that cannot be written.

    """
    path = os.fspath(target) if isinstance(target, str | os.PathLike) else None
    if format is None:
        if path is None:
            raise PictureError("a stream has no file name: say the format, such as PNG")
        extension = os.path.splitext(path)[1].lower()
        format = Image.registered_extensions().get(extension, f"of extension {extension!r}")  # noqa: A001
    name = format.upper()
    if name not in _FORMATS:
        raise PictureError(f"cannot write format {format}; take one of {', '.join(_FORMATS)}, such as x.png")
    modes, options = _FORMATS[name]
    if image.mode not in modes:
        raise PictureError(
            f"{name} cannot hold a picture of mode {image.mode}, only {', '.join(modes)}; "
            + ("save it as PNG or convert it first" if image.mode in _ALL else "convert it first")
        )
    buffer = io.BytesIO()
    try:
        image.save(buffer, name, **options, **_metadata(image, name))
    except Exception as error:  # nothing is written to disk yet: it is the format that refuses
        raise PictureError(f"{name} cannot hold this picture: {_first_line(error)}; save it as PNG") from error
    if path is not None:
        write_file(path, buffer.getvalue())
    elif not isinstance(target, str | os.PathLike):
        target.write(buffer.getvalue())
    lost = [label for key, label in _METADATA.items() if image.info.get(key)] if name in _WITHOUT_METADATA else []
    return (f"{name} does not keep the picture's {', '.join(lost)}.",) if lost else ()


def _metadata(image: Image.Image, name: str) -> dict[str, Any]:
    """Return the options of Pillow's writer of format `name` for what `image.info` holds."""
    icc, exif, xmp = (image.info.get(key) or b"" for key in ("icc_profile", "exif", "xmp"))
    options: dict[str, Any] = {"icc_profile": icc, "exif": exif, "xmp": xmp}
    if name == "JPEG" and exif and not exif.startswith(_EXIF_HEAD):
        options["exif"] = _EXIF_HEAD + exif  # a block from WebP lacks what JPEG's segment begins with
    if name == "PNG" and xmp:
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)  # no compression, no language
    if name == "TIFF":
        options["exif"] = Image.Exif()
        options["exif"].load(exif)
        if xmp:
            options["exif"][_XMP_TAG] = xmp
    return {key: value for key, value in options.items() if value}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {MAX_PIXELS} pixels; scale it down or cut it into parts"
    if isinstance(error, UnidentifiedImageError):
        return "no picture that Pillow can read; give a PNG, JPEG, WebP, TIFF or the like"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return f"damaged, or of a kind that Pillow cannot read: {_first_line(error)}"


def _open(source: Any) -> contextlib.AbstractContextManager[Image.Image]:
    """Open a source; an image that the caller gave is left open for them."""
    if isinstance(source, Image.Image):
        return contextlib.nullcontext(source)
    if not isinstance(source, str | os.PathLike):
        data = source.read() if hasattr(source, "read") else source
        if not isinstance(data, bytes):
            raise PictureError(f"is of type {type(data).__name__}; give a path, bytes, image or uint8 array")
        source = io.BytesIO(data)
    with warnings.catch_warnings():  # our limit lies below Pillow's
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(source)


def _check_size(width: int, height: int) -> None:
    if fault := size_fault(width, height):
        raise PictureError(f"{fault}; scale it down or cut it into parts")


def _from_array(array: npt.NDArray[Any]) -> Picture:
    shape = array.shape
    if array.dtype != np.uint8 or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise PictureError(
            f"an array of {array.dtype} and shape {shape} is no picture; give uint8 of (H, W), (H, W, 3 or 4)"
        )
    _check_size(shape[1], shape[0])
    planes = array.reshape(*shape[:2], -1)
    alpha = _alpha_or_none(planes[..., 3]) if planes.shape[2] == 4 else None
    return Picture(_rgb(planes[..., :3]), planes.shape[2] == 1, alpha)


def _from_image(image: Image.Image) -> Picture:
    _check_size(*image.size)
    raw, deep = _stored(image)  # asked now: Pillow forgets it once the pixels are loaded
    image.load()
    _check_size(*image.size)  # icon files may hold another size than they announce
    lost = []
    alpha: Pixels | None
    if image.mode in _WIDE:
        gray = True
        plane, alpha, range_said = _narrow(image)
        pixels = _rgb(plane)
        lost.append(f"Samples of mode {image.mode} become 8 bits: {range_said}.")
    else:
        gray = image.mode in _GRAY or raw.startswith("LA;16")  # 16-bit gray with alpha opens as RGBA
        if deep:
            lost.append("Samples of more than 8 bits become 8 bits.")
        if image.mode in _OTHER_COLOURS:
            lost.append(f"Mode {image.mode} becomes RGB: colours may change.")
        pixels, alpha = _split(_with_scaled_key(image, raw), gray)
    icc = _block(image.info.get("icc_profile"))
    if icc and not _fits(icc, image.mode, gray):
        lost.append("The ICC profile is dropped: it does not describe the decoded picture's colours.")
        icc = None
    exif = _block(image.info.get("exif")) or _other_exif(image)
    xmp = _block(image.info.get("xmp")) or _block(image.info.get("XML:com.adobe.xmp"))
    gamma = image.info.get("gamma")
    if isinstance(gamma, float) and not icc and abs(gamma - _SRGB_GAMMA) > 0.001:
        lost.append(f"A gamma of {gamma:g} is dropped: colours will look different.")
    texts = image.info.keys() & {"comment", "photoshop", *getattr(image, "text", {})}
    if texts := texts - {"XML:com.adobe.xmp", "Raw profile type exif"}:
        lost.append(f"Texts in the file are not kept: {', '.join(sorted(map(ascii, texts)))}.")
    frames = getattr(image, "n_frames", 1)  # asked last: it may move about in the file
    if frames > 1:
        lost.append(f"Only one of {frames} frames or pages is kept: of a file, the first.")
    return Picture(pixels, gray, alpha, icc, exif, xmp, tuple(lost))


def _stored(image: Image.Image) -> tuple[str, bool]:
    """Return Pillow's raw mode of a file not yet loaded ("" if unknown), and if that has over 8 bits."""
    tile = getattr(image, "tile", None)
    if not tile:
        return "", False
    args = tile[0][3]
    args = args if isinstance(args, tuple) else (args,)
    raw = args[0] if args and isinstance(args[0], str) else ""
    if tile[0][0].startswith("ppm") and len(args) == 2:
        return raw, args[1] > 255  # the largest value
    return raw, ";16" in raw


def _with_scaled_key(image: Image.Image, raw: str) -> Image.Image:
    """Return the image with its transparent colour in the range of its pixels."""
    key = image.info.get("transparency")
    if raw in _KEY_SCALE and isinstance(key, int):
        key = min(key * _KEY_SCALE[raw], 255)
    elif raw == "RGB;16B" and isinstance(key, tuple):
        key = tuple(value >> 8 for value in key)
    else:
        return image
    image = image.copy()
    image.info["transparency"] = key
    return image


def _split(image: Image.Image, gray: bool) -> tuple[Pixels, Pixels | None]:
    """Return (H, W, 3) pixels and (H, W) alpha, None if opaque, of an image of 8-bit samples."""
    if image.has_transparency_data:
        planes = np.array(image.convert("LA" if gray else "RGBA"))
        colours, alpha = planes[..., :-1], _alpha_or_none(planes[..., -1])
    else:
        colours, alpha = np.array(image.convert("L" if gray else "RGB")), None
    return _rgb(colours), alpha


def _rgb(colours: Pixels) -> Pixels:
    """Return a new array (H, W, 3) of (H, W), (H, W, 1) or (H, W, 3)."""
    height, width = colours.shape[:2]
    return np.array(np.broadcast_to(colours.reshape(height, width, -1), (height, width, 3)), order="C")


def _alpha_or_none(alpha: Pixels) -> Pixels | None:
    return None if alpha.min() == 255 else alpha.copy()


def _narrow(image: Image.Image) -> tuple[Pixels, Pixels | None, str]:
    """Map samples of 16 or 32 bits to 0..255: returns (H, W) pixels, (H, W) alpha, the range in words."""
    samples = np.array(image)
    low, high = float(samples.min()), float(samples.max())
    if not np.isfinite([low, high]).all():
        raise PictureError("samples that are infinite or not a number; replace them by finite ones")
    usual = (1.0, 255.0) if image.mode == "F" else (65535.0,)
    top = next((top for top in usual if low >= 0 and high <= top), None)
    if top is not None:
        low, high, said = 0.0, top, f"0..{top:g} is mapped to 0..255"
    else:
        said = f"its own range, {low:g}..{high:g}, is mapped to 0..255"
    scaled = (samples.astype(np.float64) - low) * (255.0 / (high - low or 1.0))
    key = image.info.get("transparency")
    alpha = np.where(samples == key, 0, 255).astype(np.uint8) if isinstance(key, int) else None
    return np.rint(scaled).astype(np.uint8), None if alpha is None else _alpha_or_none(alpha), said


def _block(value: object) -> bytes | None:
    """Return metadata as bytes; None if there is none, or, as in broken TIFF tags, something else."""
    if isinstance(value, str):
        value = value.encode()
    return value if isinstance(value, bytes) and value else None


def _fits(icc: bytes, mode: str, gray: bool) -> bool:
    """Say if a profile describes what `mode` becomes: L if gray, else RGB."""
    space = icc[16:20]
    if mode in _OTHER_COLOURS:
        return space == b"RGB "
    return gray or space != b"GRAY"


def _other_exif(image: Image.Image) -> bytes | None:
    """Return EXIF that Pillow does not hold as a block: of TIFF, of old PNG texts, set by hand."""
    found = image.getexif()
    kept = Image.Exif()
    for tag in found:
        if tag not in _STORAGE_TAGS:
            kept[tag] = found.get_ifd(tag) or found[tag]
    return kept.tobytes() if len(kept) else None
