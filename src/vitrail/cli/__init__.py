"""The command line; one file a command."""
import os
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
import click
from vitrail.cli.train import train

@click.group()
def main() -> None:
    """x"""

main.add_command(train)
