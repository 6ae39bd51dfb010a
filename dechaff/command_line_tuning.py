"""The commands about tuning: ``dechaff tune`` and ``dechaff logs``."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import click

from .command_line_options import debug_option, read_inputs, show

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def target_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--target``, ``--tuning-log`` and ``--products`` to ``dechaff optimize``."""
    target = click.option(
        "--target",
        metavar="T",
        help="cpu (the default), openvino, auto or portable; cuda, llvm, a tag of TVM or a target "
        "as JSON: generated code, and the output is a library, OUT.so.",
    )
    log = click.option("--tuning-log", metavar="DIR", help="A log of 'dechaff tune' to apply.")
    products = click.option(
        "--products",
        metavar="P",
        help="Matrix products in generated code: generated, library, measured (the faster of "
        "these), or auto (the default: as the log tells, or measured on a GPU that is here).",
    )
    return target(log(products(command)))


def check_form(result_path: str, target: str) -> None:
    """Generated code goes to a library, and a graph to an ONNX file.

    Raises:
        click.UsageError: the output's name says otherwise.
    """
    from .library_files import is_library
    from .settings import is_compiled

    if is_compiled(target) != is_library(result_path):
        wanted = "a library, NAME.so" if is_compiled(target) else "an ONNX file, NAME.onnx"
        raise click.UsageError(f"--target {target} writes {wanted}; got {result_path}.")


@click.command()
@click.argument("source", metavar="IN.onnx")
@click.option("--target", required=True, metavar="T", help="cuda, llvm, a tag of TVM, or JSON.")
@click.option("--log", required=True, metavar="DIR", help="The log; a folder for each target.")
@click.option("--trials", default=256, show_default=True, help="Measurements in the log, in all.")
@click.option("--time", "limit", metavar="20m", help="An end to the time: seconds, or 20m, or 2h.")
@click.option("--ops", metavar="LIST", help="Tune kernels whose name contains one of these.")
@click.option("--sizes", metavar="LIST", help="Such as batch=8,sequence=128.")
@click.option("--inputs", "inputs_path", metavar="X.npz", help="Tune at the sizes of these inputs.")
@click.option("--passes", default="default", metavar="LIST", help="Pass list to apply first.")
@click.option("--rpc", metavar="HOST:PORT", help="A tracker of TVM's RPC, whose servers measure.")
@click.option("--key", metavar="K", help="The servers' key at the tracker.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@debug_option
def tune(
    source: str,
    target: str,
    log: str,
    trials: int,
    limit: str | None,
    ops: str | None,
    sizes: str | None,
    inputs_path: str | None,
    passes: str,
    rpc: str | None,
    key: str | None,
    quiet: bool,
) -> None:
    """Search faster schedules for a model's kernels by measurement.

    What is in the log counts: a command that was stopped goes on when it is given again. Use a
    tracker in a trusted network only: its servers run what they are sent.

    Example: dechaff tune model.onnx --target llvm --log tuning --trials 512 --time 20m
    """
    from .tuning import tune as tune_model

    result = tune_model(
        source,
        None if inputs_path is None else read_inputs(inputs_path),
        target=target,
        log=log,
        trials=trials,
        seconds=None if limit is None else _read_time(limit),
        ops=[part.strip() for part in ops.split(",")] if ops else (),
        sizes=_read_sizes(sizes),
        passes=passes,
        rpc=_read_pool(rpc, key),
        progress=False if quiet else None,
    )
    show(_table(result))
    for name, generated, library in result.products:
        click.echo(f"{name}: generated {1000 * generated:.3f} ms, library {1000 * library:.3f} ms")
    click.echo(f"{result.added} measurements added to {result.folder}")


def _read_time(text: str) -> float:
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise click.UsageError(f"--time: expected 90, 90s, 20m or 2h, got {text!r}.")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def _read_sizes(text: str | None) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in filter(None, (text or "").split(",")):
        name, _, number = part.partition("=")
        if not number.strip().isdigit() or int(number) < 1:
            raise click.UsageError(f"--sizes: expected batch=8,sequence=128, got {part!r}.")
        sizes[name.strip()] = int(number)
    return sizes


def _read_pool(rpc: str | None, key: str | None) -> tuple[str, int, str] | None:
    if rpc is None:
        if key is not None:
            raise click.UsageError("--key: needs --rpc HOST:PORT.")
        return None
    host, _, port = rpc.rpartition(":")
    if not host or not port.isdigit() or key is None:
        raise click.UsageError("--rpc: expected HOST:PORT, and --key K with it.")
    return host, int(port), key


def _table(result: Any) -> Any:
    from rich.table import Table

    at = ", ".join(f"{name}={size}" for name, size in result.sizes.items())
    table = Table(title=f"kernels at {at}", title_justify="left")
    for heading, side in (("kernel", "left"), ("calls", "right"), ("trials", "right")):
        table.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
    table.add_column("best, ms", justify="right")
    for name, calls, trials, best in result.kernels:
        table.add_row(name, str(calls), str(trials), "" if best is None else f"{1000 * best:.3f}")
    return table


@click.group()
def logs() -> None:
    """Look at tuning logs, join them, keep the best of them.

    Example: dechaff logs show tuning
    """


@logs.command("show")
@click.argument("log", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def show_log(log: str, as_json: bool) -> None:
    """Show what a log holds, target by target.

    Example: dechaff logs show tuning --json
    """
    from dechaff.backends.tvm import log_tools

    found = log_tools(log).summaries(log)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(item) for item in found], indent=2))
        return
    for item in found:
        versions = ", ".join(f"{name} {version}" for name, version in item.versions.items())
        click.echo(f"{item.name}: {item.records} records, {item.workloads} kernels ({versions})")
        for measured in item.products:
            click.echo(f"  {measured.product}, {measured.rows} rows: {measured.faster} is faster")
        for model in item.models:
            at = ", ".join(f"{name}={size}" for name, size in model.sizes.items())
            click.echo(f"  {model.source} at {at}")


@logs.command()
@click.argument("sources", metavar="DIR...", nargs=-1, required=True)
@click.option("-o", "--output", required=True, metavar="DIR", help="The log to add them to.")
@debug_option
def merge(sources: tuple[str, ...], output: str) -> None:
    """Add the records of logs to another, each to its own target.

    Example: dechaff logs merge machine-1 machine-2 -o tuning
    """
    from dechaff.backends.tvm import log_tools

    added = log_tools(output).merge(output, sources)
    click.echo(f"{added} records added to {output}")


@logs.command()
@click.argument("log", metavar="DIR")
@debug_option
def prune(log: str) -> None:
    """Keep the best schedule of each kernel, and forget the others.

    Example: dechaff logs prune tuning
    """
    from dechaff.backends.tvm import log_tools

    before, after = log_tools(log).prune(log)
    click.echo(f"{after} of {before} records kept")
