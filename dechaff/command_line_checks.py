"""The commands that check: ``dechaff verify`` and ``dechaff bisect``."""

from __future__ import annotations

import click

from .command_line_options import debug_option, isolation_options, read_inputs, show


@click.command()
@click.argument("first", metavar="A.onnx")
@click.argument("second", metavar="B.onnx")
@click.option("--inputs", "inputs_path", metavar="X.npz", help="Inputs to compare on, by name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--no-cache", is_flag=True, help="Compare anew, and keep no result.")
@isolation_options
@debug_option
def verify(first: str, second: str, inputs_path: str | None, as_json: bool, no_cache: bool) -> None:
    """Compare two ONNX models on the same inputs, and find where they part.

    A is the reference. Any two models will do that take the same inputs.

    Example: dechaff verify model.onnx faster.onnx
    """
    from .model_verification import verify as verify_models

    given = None if inputs_path is None else read_inputs(inputs_path)
    comparison = verify_models(first, second, given, cache=not no_cache)
    if as_json:
        click.echo(comparison.to_json())
    else:
        show(comparison)
    comparison.check()


@click.command()
@click.argument("source", metavar="IN.onnx")
@click.option("--passes", default="default", metavar="LIST", help="Pass list to search.")
@click.option("--inputs", "inputs_path", metavar="X.npz", help="Inputs to compare on, by name.")
@click.option(
    "--check",
    metavar="COMMAND",
    help="Fails where {after} is wrong and {before} is right; both are ONNX files.",
)
@click.option(
    "--target", default="cpu", metavar="cpu|openvino|portable", help="Lowering to check as well."
)
@click.option("-o", "--output", metavar="REPRO_DIR", help="Folder for a small repro.")
@isolation_options
@debug_option
def bisect(
    source: str,
    passes: str,
    inputs_path: str | None,
    check: str | None,
    target: str,
    output: str | None,
) -> None:
    """Find the pass and the single rewrite that make a model wrong.

    Ends in 4 if there is one. The repro holds two small models that differ by that rewrite.

    Example: dechaff bisect model.onnx --passes default -o repro
    """
    from .bisection import bisect as bisect_model

    given = None if inputs_path is None else read_inputs(inputs_path)
    found = bisect_model(source, passes, inputs=given, check=check, target=target, output=output)
    if found is None:
        click.echo(f"{source}: no fault found: the model is right after all passes")
        return
    if output is not None:
        click.echo(f"wrote {output}")
    found.fail()
