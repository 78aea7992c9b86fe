"""The command line; one file a command. Modules that need torch are imported by the commands that run them."""

import os
import sys
from typing import Any

import click

from vitrail.cli.ablate import ablate
from vitrail.cli.bench import bench
from vitrail.cli.compress import compress
from vitrail.cli.data import data
from vitrail.cli.decompress import decompress
from vitrail.cli.eval import eval_
from vitrail.cli.info import info
from vitrail.cli.models import models
from vitrail.cli.results import results
from vitrail.cli.selfcheck import selfcheck
from vitrail.cli.train import train
from vitrail.errors import VitrailError


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        # libgomp reads this when torch is imported. Its threads else spin so long at barriers that a busy
        # neighbour on the same cores slows small operations a hundredfold.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        try:
            return super().invoke(ctx)
        except VitrailError as error:
            click.echo(f"vitrail: {error}", err=True)
            sys.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vitrail")
def main() -> None:
    """Compress photographs with a learned codec, and get them back.

    Shell completion: eval "$(_VITRAIL_COMPLETE=bash_source vitrail)", or zsh_source, fish_source.
    """


for command in (compress, decompress, info, models, eval_, bench, results, data, train, ablate, selfcheck):
    main.add_command(command)
