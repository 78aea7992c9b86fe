"""What the commands on files share: where output goes, and one line a file."""

import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from vitrail.errors import UsageError, VitrailError

STREAM = Path("-")


def read(path: Path) -> bytes:
    """Return a file's bytes, or those of standard input for `-`. Raises `UsageError`."""
    if path == STREAM:
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, or to standard output for `-`."""
    from vitrail.storage import write_file

    if path == STREAM:
        sys.stdout.buffer.write(data)
    else:
        write_file(path, data)


def destinations(sources: Sequence[Path], output: Path | None, suffix: str, force: bool) -> list[Path]:
    """Return where each source's result goes: beside it, to the file or folder `output`, or `-` for a stream.

    Raises `UsageError` for an output that several sources share, or that exists already unless `force`.
    """
    try:
        return _destinations(sources, output, suffix, force)
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be used: {error.strerror}") from error


def _destinations(sources: Sequence[Path], output: Path | None, suffix: str, force: bool) -> list[Path]:
    folder = output is not None and output != STREAM and output.is_dir()
    if output is not None and not folder and len(sources) > 1:
        raise UsageError(f"{output} is not a folder; give an existing folder for several files")
    results = []
    for source in sources:
        if output is not None and not folder:
            results.append(output)
        elif source == STREAM and folder:
            raise UsageError(f"standard input has no name for a file in {output}; give a file's name")
        elif source == STREAM:
            results.append(STREAM)
        elif not source.name:
            raise UsageError(f"{source} is not a file")
        else:
            results.append((output or source.parent) / source.with_suffix(suffix).name)
    for result, count in Counter(result for result in results if result != STREAM).items():
        if count > 1:
            raise UsageError(f"several inputs would be written to {result}; give them different names")
        if result.exists() and not force:
            raise UsageError(f"{result} exists; add --force to replace it")
    return results


@contextmanager
def _progress(count: int) -> Iterator[Callable[[], object]]:
    from tqdm import tqdm

    with tqdm(total=count, unit=" files", file=sys.stderr, disable=count < 2 or not sys.stderr.isatty()) as bar:
        yield bar.update


@contextmanager
def share_of_one(name: str, shown: bool) -> Iterator[Callable[[float], object]]:
    """Show on a terminal how far the work on one file is; the function that is given takes each further share."""
    from tqdm import tqdm

    layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    hidden = not shown or not sys.stderr.isatty()
    with tqdm(total=1.0, desc=name, bar_format=layout, file=sys.stderr, leave=False, disable=hidden) as bar:
        yield bar.update


@contextmanager
def first_interrupt(interrupted: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C set an event; a second one ends the program as usual."""

    def note(number: int, frame: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def process(
    sources: Sequence[Path],
    targets: Sequence[Path],
    work: Callable[[Path, Path], dict[str, Any]],
    as_json: bool,
    line: str,
    interrupted: threading.Event | None = None,
) -> None:
    """Do `work(source, target)` for each file and print its results, as `line` formats them or as one JSON array.

    A file that fails is told on standard error and the others go on; then the exit status is 1. Where a result
    goes to standard output, lines go to standard error. `interrupted`: no further file is begun once it is set, and
    the exit status is 130.
    """
    results, failed = [], False
    with _progress(len(sources)) as advance:
        for source, target in zip(sources, targets, strict=True):
            try:
                result = work(source, target)
            except VitrailError as error:
                click.echo(f"vitrail: {_about(source, error)}", err=True)
                failed = True
            else:
                results.append(result)
                if not as_json:
                    click.echo(line.format(**result), err=target == STREAM)
            advance()
            if interrupted and interrupted.is_set():
                break
    if as_json:
        click.echo(json.dumps(results), err=STREAM in targets)
    if interrupted and interrupted.is_set():
        click.echo(f"vitrail: interrupted; {len(results)} of {len(sources)} files are written", err=True)
        sys.exit(130)
    if failed:
        sys.exit(1)


def _about(source: Path, error: VitrailError) -> str:
    text = str(error)
    return text if str(source) in text else f"{source}: {text}"


def warn(source: Path, warnings: Sequence[str]) -> None:
    """Tell on standard error what of a picture is not kept."""
    for warning in warnings:
        click.echo(f"vitrail: warning: {source}: {warning}", err=True)
