"""Plots of measurements, as SVG to stand in a page."""

import io
from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitrail.evaluation.bdrate import Curve
from vitrail.evaluation.bench import Row


def curves(measured: Sequence[Curve], published: Sequence[Curve], unit: str) -> str:
    """Draw rate-distortion curves: measured ones with lines and dots, published ones thin and dashed."""
    figure, axes = _axes("bits per pixel", unit)
    for number, curve in enumerate(published):
        points = sorted(zip(curve.bpp, curve.psnr, strict=True))
        dashes = (0, (1 + number, 1.5))  # grey, told apart by their dashes
        axes.plot(*zip(*points, strict=True), color="grey", linestyle=dashes, linewidth=0.9, label=curve.name)
    for curve in measured:
        points = sorted(zip(curve.bpp, curve.psnr, strict=True))
        axes.plot(*zip(*points, strict=True), "o-", linewidth=1.8, markersize=4, label=curve.name)
    rates = [rate for curve in measured for rate in curve.bpp]
    values = [value for curve in measured for value in curve.psnr]
    axes.set_xlim(0, 1.05 * max(rates))
    axes.set_ylim(min(values) - 1, max(values) + 2)
    return _svg(figure)


def speeds(points: Mapping[str, tuple[float, float, float | None]], anchor: str) -> str:
    """Draw each codec's seconds, encoding and decoding, and its BD-rate in percent against one of them."""
    figure, axes = _axes("seconds a picture: encoding (dot), decoding (ring)", f"BD-rate against {anchor}, %")
    axes.set_xscale("log")
    for name, (encode, decode, rate) in points.items():
        if rate is not None:
            (drawn,) = axes.plot([encode, decode], [rate, rate], ":", linewidth=1, label=name)
            axes.plot(encode, rate, "o", color=drawn.get_color())
            axes.plot(decode, rate, "o", color=drawn.get_color(), fillstyle="none")
    return _svg(figure)


def growth(rows: Sequence[Row]) -> str:
    """Draw seconds and memory against megapixels, both axes logarithmic."""
    figure, axes = _axes("megapixels", "seconds; GiB")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for name in dict.fromkeys(row.name for row in rows):
        mine = sorted((row for row in rows if row.name == name), key=lambda row: row.megapixels)
        pixels = [row.megapixels for row in mine]
        axes.plot(pixels, [row.encode_s for row in mine], "o-", label=f"{name}, encode, s")
        axes.plot(pixels, [row.decode_s for row in mine], "o--", label=f"{name}, decode, s")
        axes.plot(pixels, [row.peak_mib / 1024 for row in mine], "o:", label=f"{name}, peak, GiB")
    return _svg(figure)


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes


def _svg(figure: Figure) -> str:
    figure.axes[0].legend(fontsize=7)
    file = io.StringIO()
    # Equal plots for equal figures: no date, no random names.
    with rc_context({"svg.hashsalt": "vitrail"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]
