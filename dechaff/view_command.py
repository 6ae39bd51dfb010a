"""The command ``dechaff view``."""

from __future__ import annotations

import json
import os
import pathlib
import webbrowser

import click

from .command_line_options import debug_option, isolation_options, read_inputs


@click.command()
@click.argument("sources", metavar="FILE [OTHER.onnx]", nargs=-1, required=True)
@click.option("-o", "--output", "output_path", metavar="OUT.html", help="Where the page goes.")
@click.option("--errors", is_flag=True, help="Run both models; colour values by how far apart.")
@click.option("--inputs", "inputs_path", metavar="X.npz", help="Inputs for --errors.")
@click.option("--model-explorer", metavar="OUT.json", help="Write graphs for Model Explorer too.")
@click.option("--open", "open_it", is_flag=True, help="Open the page in the browser.")
@isolation_options
@debug_option
def view(
    sources: tuple[str, ...],
    output_path: str | None,
    errors: bool,
    inputs_path: str | None,
    model_explorer: str | None,
    open_it: bool,
) -> None:
    """Show a trace, a model, or two models side by side, as one HTML file.

    The page works from the disk, without a server or network.

    Example: dechaff view run.dechaff -o run.html
    """
    from dechaff.viewer import render_page

    from .model_explorer import graph_collection
    from .model_files import write_text
    from .trace_file import is_trace, read_trace
    from .trace_models import trace_of_models

    if len(sources) > 2:
        raise click.UsageError(f"At most two models can be compared, {len(sources)} are given.")
    if (errors or inputs_path) and len(sources) != 2:
        raise click.UsageError("--errors and --inputs compare two models; give two ONNX files.")
    if len(sources) == 1 and is_trace(sources[0]):
        trace = read_trace(sources[0])
    else:
        inputs = None if inputs_path is None else read_inputs(inputs_path)
        trace = trace_of_models(*sources, errors=errors, inputs=inputs)
    page = pathlib.Path(output_path or f"{pathlib.Path(sources[0]).stem}.html")
    texts = {page: render_page(trace)}
    if model_explorer is not None:
        texts[pathlib.Path(model_explorer)] = json.dumps(graph_collection(trace))
    for path in texts:
        if any(os.path.realpath(path) == os.path.realpath(source) for source in sources):
            raise click.UsageError(f"{path} is the input, which is never overwritten.")
    for path, text in texts.items():
        write_text(path, text)
        click.echo(f"wrote {path}")
    if open_it:
        webbrowser.open(page.absolute().as_uri())
