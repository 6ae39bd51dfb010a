"""The command ``inspect``: what a model contains, and what this machine has for it."""

from __future__ import annotations

import click

from .command_line_options import debug_option, isolation_options, show


@click.command()
@click.argument("source", metavar="IN.onnx")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@isolation_options
@debug_option
def inspect(source: str, as_json: bool) -> None:
    """Show what a model contains, which attention the passes find, and the low-bit kernels here.

    Example: dechaff inspect model.onnx --json
    """
    from .inspection import inspect_module
    from .model_import import import_model

    found = inspect_module(import_model(source))
    if as_json:
        click.echo(found.to_json())
    else:
        show(found)
