"""`vitrail models`: the models of the package, and the configs that can be trained."""

import json

import click

from vitrail import config, zoo


@click.command()
@click.option("--configs", is_flag=True, help="List the configs that `vitrail train` knows instead.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def models(configs: bool, as_json: bool) -> None:
    """List the models of the package."""
    if configs:
        described = {name: json.loads(item.to_json()) for name, item in config.CONFIGS.items()}
        lines = [f"{name}: " + ", ".join(_kinds(values)) for name, values in described.items()]
    else:
        from safetensors import safe_open

        described, lines = {}, []
        for name in zoo.names():
            file = zoo.locate(name)
            with safe_open(file, "numpy") as opened:
                notes = opened.metadata()
            described[name] = {**notes, "config": json.loads(notes["config"])}
            described[name] |= {"id": zoo.identity(file.read_bytes()).hex(), "bytes": file.stat().st_size}
            default = ", the default" if name == zoo.DEFAULT else ""
            lines.append(f"{name}{default}: id {described[name]['id']}, {described[name]['bytes']} bytes")
            lines += [f"  {key}: {notes[key]}" for key in sorted(notes) if key != "config"]
    click.echo(json.dumps(described) if as_json else "\n".join(lines))


def _kinds(values: dict[str, object]) -> list[str]:
    return [str(part["kind"]) for part in values.values() if isinstance(part, dict)]
