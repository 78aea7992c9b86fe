"""Which photographs are worth training on, and at what size.

A codec learns the marks of whatever coded its photographs before, and learns little from blur, from flat areas and from
the same scene twice. So a photograph is scaled down, or left out:

    scaled down   JPEG by 1.75 to 3, the more the coarser its quantisation tables; what is soft until it is sharp
    left out      no picture; too small, also after scaling; flat; close to one that is kept, or to a test picture

The thresholds were set on Kodak's and the validation photographs (sharpness 0.64 to 1.03, detail 0.58 to 1; blurred by
a sigma of 1: sharpness 0.53 to 0.63).
"""

import io
import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image

from vitrail import picture
from vitrail.errors import PictureError
from vitrail.picture import Pixels
from vitrail.training.store import SMALLEST_SIDE, DroppedError

# Least quality of a JPEG (IJG's scale) and the factor that hides its marks.
_JPEG_FACTORS = ((93, 1.75), (85, 2.0), (75, 2.5), (0, 3.0))
# Of IJG's luminance table: its sum at quality 50.
_JPEG_SUM = 3688
_SHARP = 0.62
_STEP = 1.25
_DETAILED = 0.1
# Correlation of thumbnails: above, it is the same scene.
_SAME = 0.95
_THUMBNAIL = 16


class _Thumbnails:
    """Thumbnails in one array that doubles when it is full, so that a hundred thousand are compared at once."""

    def __init__(self) -> None:
        self.rows = np.empty((64, 3 * _THUMBNAIL**2), np.float32)
        self.count = 0

    def add(self, thumbnail: npt.NDArray[np.float32]) -> None:
        if self.count == len(self.rows):
            self.rows = np.concatenate([self.rows, np.empty_like(self.rows)])
        self.rows[self.count] = thumbnail
        self.count += 1

    def hold(self, thumbnail: npt.NDArray[np.float32]) -> bool:
        return bool((self.rows[: self.count] @ thumbnail > _SAME).any())


class Curator:
    """Takes photographs one after another; remembers thumbnails of those taken, to know them again."""

    def __init__(self, tests: Iterable[Pixels] = (), longest: int | None = None) -> None:
        """Nothing close to `tests` will be taken, and no side will be longer than `longest` pixels."""
        self.longest = longest
        self.tests, self.kept = _Thumbnails(), _Thumbnails()
        for pixels in tests:
            self.tests.add(_thumbnail(pixels))
        known = zlib.crc32(self.tests.rows[: self.tests.count].tobytes())
        self.title = (
            f"photographs worth training on, longest side {longest}, without {self.tests.count} pictures ({known:08x})"
        )

    def prepare(self, data: bytes) -> Pixels:
        """Read a file's bytes as pixels (H, W, 3), scaled down where that helps. Raises `DroppedError`."""
        try:
            pixels = picture.read(data).pixels
        except PictureError as error:
            raise DroppedError("no picture") from error
        factor = _jpeg_factor(data)
        if self.longest:
            factor = max(factor, max(pixels.shape[:2]) / self.longest)
        pixels = _scaled(pixels, factor)
        if detail(pixels) < _DETAILED:
            raise DroppedError("flat")
        while sharpness(pixels) < _SHARP:
            try:
                pixels = _scaled(pixels, _STEP)
            except DroppedError:
                raise DroppedError("blurred") from None
        return pixels

    def admit(self, pixels: Pixels) -> None:
        """Raise `DroppedError` for what is close to a test picture or to one that was kept; else remember it."""
        thumbnail = _thumbnail(pixels)
        for others, reason in ((self.tests, "close to a test picture"), (self.kept, "close to another")):
            if others.hold(thumbnail):
                raise DroppedError(reason)
        self.kept.add(thumbnail)


def jpeg_quality(data: bytes) -> float | None:
    """Return the quality 1..100 that IJG's encoder would have been given for a JPEG's tables; None for others."""
    with Image.open(io.BytesIO(data)) as image:
        tables = getattr(image, "quantization", None)
    if not tables:
        return None
    scale = 100 * sum(tables[min(tables)]) / _JPEG_SUM
    return max(1.0, (200 - scale) / 2 if scale <= 100 else 5000 / scale)


def _jpeg_factor(data: bytes) -> float:
    quality = jpeg_quality(data)
    return 1.0 if quality is None else next(factor for least, factor in _JPEG_FACTORS if quality >= least)


def _scaled(pixels: Pixels, factor: float) -> Pixels:
    height, width = (round(side / factor) for side in pixels.shape[:2])
    if min(height, width) < SMALLEST_SIDE:
        raise DroppedError(f"smaller than {SMALLEST_SIDE} pixels")
    if factor == 1:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def _octaves(pixels: Pixels) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return for each 32 x 32 block the variance of luma within 2 x 2 pixels, and of their means within 4 x 4."""
    height, width = (side // 32 for side in pixels.shape[:2])
    luma = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)[: 32 * height, : 32 * width]
    energies = []
    for size in (16, 8):
        cells = luma.reshape(size * height, 2, size * width, 2)
        luma = cells.mean((1, 3))
        spread = np.square(cells - luma[:, None, :, None]).mean((1, 3))
        energies.append(spread.reshape(height, size, width, size).mean((1, 3)))
    return energies[0], energies[1]


def sharpness(pixels: Pixels) -> float:
    """Return the finest octave's amplitude over the next one's, in the quarter of the blocks with most detail."""
    fine, coarse = _octaves(pixels)
    detailed = coarse >= np.quantile(coarse, 0.75)
    return float(np.sqrt(fine[detailed].sum() / max(float(coarse[detailed].sum()), 1e-9)))


def detail(pixels: Pixels) -> float:
    """Return the share of 32 x 32 blocks that hold more than what sensor noise would leave."""
    fine, coarse = _octaves(pixels)
    return float((fine + coarse > 4).mean())


def _thumbnail(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Return the picture at 16 x 16 as a vector of mean 0 and norm 1."""
    small = Image.fromarray(pixels).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    vector = np.asarray(small, np.float32).flatten()
    vector = vector - vector.mean()
    return vector / max(float(np.linalg.norm(vector)), 1e-6)
