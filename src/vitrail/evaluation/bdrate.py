"""Bjøntegaard's delta rate between two curves, and the files that curves come from."""

import difflib
import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import bjontegaard

from vitrail.errors import UsageError


class Curve(NamedTuple):
    """A codec's rate-distortion points, in any order."""

    name: str
    bpp: tuple[float, ...]
    """Bits per pixel, above 0."""
    psnr: tuple[float, ...]
    """dB; or another quality in dB, where a plot says so."""


def bd_rate(anchor: Curve, test: Curve) -> float:
    """Give how many percent more bits `test` needs than `anchor` at equal PSNR; negative means fewer.

    This is the mean difference of log rate over the PSNR range that both curves have, interpolated by pchip,
    from the `bjontegaard` library (Herglotz et al.), whose pchip equals the sheet of JCT-VC. Pchip demands
    that PSNR rises with the rate: a point that is no better than a cheaper one is dropped with a warning.

    Raises `UsageError` where fewer than two points are left, or the curves share no range of PSNR.
    """
    anchor, test = _rising(anchor), _rising(test)
    if max(anchor.psnr[0], test.psnr[0]) >= min(anchor.psnr[-1], test.psnr[-1]):
        a, b = (f"{curve.name} ({curve.psnr[0]:.2f} to {curve.psnr[-1]:.2f} dB)" for curve in (anchor, test))
        raise UsageError(f"{a} and {b} share no range of PSNR: measure other qualities")
    return float(
        bjontegaard.bd_rate(
            anchor.bpp,
            anchor.psnr,
            test.bpp,
            test.psnr,
            method="pchip",
            require_matching_points=False,
            min_overlap=0,  # published curves are much wider than a sweep: no warning about that
        )
    )


def bd_rate_or_none(anchor: Curve, test: Curve) -> float | None:
    """Return `bd_rate`, or None where two curves cannot be compared; of dropped points nothing is said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bd_rate(anchor, test)
        except UsageError:
            return None


def _rising(curve: Curve) -> Curve:
    points: list[tuple[float, float]] = []
    for bpp, psnr in sorted(zip(curve.bpp, curve.psnr, strict=True)):
        if not points or psnr > points[-1][1]:
            points.append((bpp, psnr))
    if len(points) < 2:
        raise UsageError(f"{curve.name} has too few points for a BD-rate: measure more qualities")
    if dropped := len(curve.bpp) - len(points):
        message = f"{curve.name}: {dropped} of {len(curve.bpp)} points dropped, no better than a cheaper one"
        warnings.warn(message, stacklevel=3)
    return Curve(curve.name, *zip(*points, strict=True))


def load_curve(spec: str) -> Curve:
    """Read a curve from `FILE.json`, a report of `vitrail eval`, or `FILE.json:NAME`, a file of many curves.

    A file of many has the form `{"curves": [{"name": ..., "bpp": [...], "psnr": [...]}]}`;
    `benchmarks/kodak_psnr.json` is one. Raises `UsageError` for a file that cannot be read or has another
    form, and for an unknown name.
    """
    stem, colon, name = spec.partition(".json:")
    path = f"{stem}.json" if colon else spec
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        curves = {curve.name: curve for curve in _curves(content)}
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the curve {spec} ({error})") from error
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path} is neither a report of vitrail eval nor a file of PSNR curves") from error
    if not colon and len(curves) == 1:
        return next(iter(curves.values()))
    if name not in curves:
        problem = f"no curve {name!r} in {path}" if name else f"{path} holds several curves"
        known = ", ".join(difflib.get_close_matches(name, curves, n=5, cutoff=0.3) or curves)
        raise UsageError(f"{problem}: write {path}:NAME with one of: {known}")
    return curves[name]


def load_curves(file: Path) -> tuple[str, list[Curve]]:
    """Read the metric, "psnr" or "ms_ssim_db", and all curves of a file of many. Raises `UsageError`."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        metric = {"psnr": "psnr", "ms_ssim_db": "ms_ssim_db"}[content["metric"]]
        found = [Curve(each["name"], tuple(each["bpp"]), tuple(each[metric])) for each in content["curves"]]
        if any(len(curve.bpp) != len(curve.psnr) for curve in found):
            raise ValueError("a curve has more rates than qualities, or fewer")
        return metric, found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is no file of curves, such as benchmarks/kodak_psnr.json ({error})") from error


def _curves(content: Any) -> list[Curve]:
    if "points" in content:
        points = content["points"]
        return [Curve(content["codec"], tuple(p["bpp"] for p in points), tuple(p["psnr"] for p in points))]
    return [Curve(curve["name"], tuple(curve["bpp"]), tuple(curve["psnr"])) for curve in content["curves"]]
