"""`vitrail results`: all codecs on one folder, as a page and as tables."""

import functools
import re
import shlex
import sys
from pathlib import Path

import click

from vitrail.errors import UsageError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for index.html, its pictures, reports/NAME.json, and what is measured: nothing there is done again.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="A Vitrail model's name or path, or a codec of Pillow. Repeatable; by default all that there are.",
)
@click.option(
    "--published",
    multiple=True,
    type=_FILE,
    help="JSON of curves that others measured on the same pictures. Repeatable.",
)
@click.option("--sizes", type=_FILE, help="What `vitrail bench --json` printed for several sizes.")
@click.option("--markdown", type=_FILE, help="Write the tables into this Markdown file too, between its marks.")
def results(
    folder: Path,
    out: Path,
    models: tuple[str, ...],
    published: tuple[Path, ...],
    sizes: Path | None,
    markdown: Path | None,
) -> None:
    """Measure all codecs on the pictures of DIR, and write a page with plots, tables and pictures side by side."""
    try:
        from tqdm import tqdm

        from vitrail import zoo
        from vitrail.evaluation import bench
        from vitrail.evaluation import results as made
        from vitrail.evaluation.bdrate import load_curves
        from vitrail.evaluation.cache import Cache
        from vitrail.evaluation.codecs import PEERS, VitrailCodec, codec
        from vitrail.evaluation.sweep import evaluate
        from vitrail.storage import write_file
    except ModuleNotFoundError as error:
        raise UsageError(f"vitrail results needs {error.name}: pip install 'vitrail[eval]'") from error

    # Whatever can go wrong does so before the long sweeps.
    others = [load_curves(file) for file in published]
    rows = bench.load(sizes) if sizes else []
    if markdown:
        made.around(markdown)
    codecs = [codec(name) for name in models or (*zoo.names(), *PEERS)]
    if len(codecs) > len({each.name for each in codecs}):
        raise UsageError("a codec is named twice; name each once")
    try:
        for part in ("measured", "pictures", "reports"):
            (out / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write into {out}: {error.strerror}") from error
    cache = Cache(out / "measured")
    reports = []
    for each in codecs:
        progress = functools.partial(tqdm, desc=each.name, unit="picture", file=sys.stderr, leave=False)
        report = evaluate(each, folder, each.qualities, progress, cache.measure)
        write_file(
            out / "reports" / f"{re.sub(r'[^-.,=+@A-Za-z0-9]+', '_', each.name)}.json", f"{report.to_json()}\n".encode()
        )
        reports.append(report)
    progress = functools.partial(tqdm, desc="pictures", unit="picture", file=sys.stderr, leave=False)
    shown = made.show(codecs, folder, out / "pictures", progress)
    found = made.Results(
        reports,
        [each.weights if isinstance(each, VitrailCodec) else "" for each in codecs],
        [curve for metric, curves in others if metric == "psnr" for curve in curves],
        [curve for metric, curves in others if metric == "ms_ssim_db" for curve in curves],
        rows,
        shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )
    write_file(out / "index.html", found.page(shown).encode())
    if markdown:
        before, after = made.around(markdown)
        write_file(markdown, f"{before}\n{found.markdown()}\n{after}".encode())
    click.echo(out / "index.html")
