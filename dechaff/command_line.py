"""The command line: one command each for what dechaff does, and how errors end."""

from __future__ import annotations

import os
import pathlib
import sys
import traceback
from typing import TYPE_CHECKING, Any

import click

from dechaff import __version__

from .command_line_checks import bisect, verify
from .command_line_inspect import inspect
from .command_line_options import (
    DEBUG,
    ISOLATE,
    calibration_options,
    debug_option,
    isolation_options,
    read_inputs,
    show,
)
from .command_line_search import search_options
from .command_line_tuning import check_form, logs, target_options, tune
from .explain_command import explain
from .isolation import end_without_waiting, memory_text
from .view_command import view

if TYPE_CHECKING:
    from .report import Report

_UNEXPECTED = 1
_INTERRUPTED = 130


class _Commands(click.Group):
    """Turns every error into one line on stderr and the documented exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            line, code = _line_and_code(error)
            click.echo(line, err=True)
            ctx.exit(code)


def _line_and_code(error: BaseException) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt):  # first: modules half loaded cannot be loaded again
        return "dechaff: interrupted", _INTERRUPTED
    from dechaff.ir import DechaffError, ExitCode

    if isinstance(error, DechaffError):
        return f"dechaff: error: {error}", int(error.exit_code)
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "dechaff"
        return f"dechaff: error: {error.format_message()} See '{command} --help'.", error.exit_code
    if isinstance(error, click.ClickException):
        return f"dechaff: error: {error.format_message()}", error.exit_code
    if isinstance(error, MemoryError):
        return f"dechaff: error: {memory_text(error)}", ExitCode.CRASHED
    text = " ".join(str(error).split()) or "no message"
    return (
        f"dechaff: error: unexpected {type(error).__name__}: {text} "
        "(a defect of dechaff; --debug shows the traceback)",
        _UNEXPECTED,
    )


@click.group(
    cls=_Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # Other tools of this field write options with underscores; both spellings work.
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
    epilog="Exit codes: 0 done, 1 unexpected, 2 usage, 3 input model rejected, "
    "4 verification failed, 5 a required pass did not apply, 6 crashed or over its limits, "
    "130 interrupted.",
)
@click.version_option(__version__, prog_name="dechaff")
def cli() -> None:
    """Make Transformer models faster without changing their answers.

    Example: dechaff optimize model.onnx -o faster.onnx
    """


@cli.command()
@click.argument("source", metavar="[IN.onnx]", required=False)
@click.argument("destination", metavar="[OUT.onnx]", required=False)
@click.option("-i", "--input", "input_path", metavar="IN.onnx", help="The model to optimize.")
@click.option("-o", "--output", "output_path", metavar="OUT.onnx", help="Where the result goes.")
@click.option("--passes", metavar="LIST", help="Pass list, such as 'default,-fuse-bias-gelu'.")
@target_options
@click.option("--verify", metavar="final|each|off", help="When to compare with the original.")
@click.option("--config", metavar="FILE", help="JSON or TOML file with passes, target, verify.")
@click.option("--threads", type=int, metavar="N", help="Threads; all usable cores by default.")
@click.option("--opset", type=int, metavar="N", help="Opset that the written file shall import.")
@click.option("--inputs", "inputs_path", metavar="X.npz", help="Inputs to verify on, by name.")
@click.option("--require", multiple=True, metavar="PASS", help="Fail unless this pass applies.")
@click.option("--report", "report_path", metavar="R.json", help="Write the report; - is stdout.")
@click.option("--trace", "trace_path", metavar="T.dechaff", help="Write a trace for 'view'.")
@click.option("--snapshots", metavar="DIR", help="Write the model after each pass to a new folder.")
@click.option("--no-cache", is_flag=True, help="Time kernels anew, and keep no times.")
@click.option("--save-as-external-data", is_flag=True, help="Weights go to a file beside OUT.onnx.")
@click.option("-q", "--quiet", is_flag=True, help="Show warnings and errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Show what nearly applied, and why not.")
@isolation_options
@search_options
@calibration_options
@debug_option
def optimize(
    source: str | None,
    destination: str | None,
    input_path: str | None,
    output_path: str | None,
    report_path: str | None,
    inputs_path: str | None,
    calibration: dict[str, Any],
    trace_path: str | None,
    snapshots: str | None,
    require: tuple[str, ...],
    threads: int | None,
    opset: int | None,
    save_as_external_data: bool,
    no_cache: bool,
    quiet: bool,
    verbose: bool,
    config: str | None,
    search: dict[str, Any],
    plot_path: str | None,
    **settings: str | None,
) -> None:
    """Optimize an ONNX model; with --metric, as far as a metric on data allows.

    Example: dechaff optimize model.onnx -o faster.onnx --require remove-padding

    Example: dechaff optimize model.onnx -o faster.onnx --metric accuracy --data dev.npz
    """
    from dechaff import SessionSettings
    from dechaff import optimize as optimize_model

    if input_path is not None and source is not None and destination is None:
        source, destination = None, source  # -i IN.onnx OUT.onnx
    model_path = _one_of("input", source, input_path)
    result_path = _one_of("output", destination, output_path)
    _check_paths(model_path, result_path, report_path, trace_path, plot_path)
    merged = _merge_settings(config, settings)
    if no_cache:
        merged["cache"] = False
    check_form(result_path, str(merged.get("target", "cpu")))
    _check_required(require, merged.get("passes", "approximate" if search else "default"))
    example = None if inputs_path is None else read_inputs(inputs_path)
    optimized = optimize_model(
        model_path,
        example,
        config=merged,
        progress=False if quiet else None,
        trace=trace_path,
        snapshots=snapshots,
        session=SessionSettings(threads),
        **calibration,
        **search,
    )
    report = optimized.report
    assert report is not None  # optimize() always gives one
    _check_applied(require, report)
    optimized.save(result_path, external_data=save_as_external_data or None, opset=opset)
    if report_path is not None:
        _write_report(report, report_path)
    if plot_path is not None and report.search is not None:
        report.search.plot(plot_path)
    _show(report, to_stderr=report_path == "-", quiet=quiet, verbose=verbose)
    if not quiet:
        click.echo(f"wrote {result_path}", err=report_path == "-")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def passes(as_json: bool) -> None:
    """List the passes with their numerics, options and defaults.

    Example: dechaff passes
    """
    from .pass_catalogue import catalogue_json, pass_table, pipeline_lines

    if as_json:
        click.echo(catalogue_json())
        return
    show(pass_table())
    for line in pipeline_lines():
        click.echo(line)


cli.add_command(inspect)
cli.add_command(view)
cli.add_command(explain)


def _one_of(role: str, positional: str | None, option: str | None) -> str:
    if positional is not None and option is not None:
        raise click.UsageError(f"The {role} model is given twice: {positional} and {option}.")
    chosen = positional if positional is not None else option
    if chosen is None:
        letter = role[0]
        raise click.UsageError(f"The {role} model is missing: give it by -{letter} or by position.")
    return chosen


def _check_paths(model_path: str, result_path: str, *others: str | None) -> None:
    """Refuse before any work what could not be written, or would overwrite the input."""
    written = [result_path, *(path for path in others if path is not None and path != "-")]
    for path in map(pathlib.Path, written):
        if not path.absolute().parent.is_dir():
            raise click.UsageError(f"The folder {path.parent} does not exist.")
        if path.is_dir():
            raise click.UsageError(f"{path} is a folder; give a file name.")
        if os.path.realpath(path) == os.path.realpath(model_path):
            raise click.UsageError(f"{path} is the input model, which is never overwritten.")


def _merge_settings(config: str | None, given: dict[str, str | None]) -> dict[str, Any]:
    """Settings of the config file, those given on the command line in front."""
    from .settings import read_config

    merged = read_config(config) if config is not None else {}
    return merged | {key: value for key, value in given.items() if value is not None}


def _check_required(required: tuple[str, ...], passes: Any) -> None:
    from dechaff.passes import parse_pass_list, pass_by_name

    chosen = {step.name for step in parse_pass_list(passes)}
    for name in required:
        if pass_by_name(name).name not in chosen:
            raise click.UsageError(f"--require {name}: the pass list leaves this pass out.")


def _check_applied(required: tuple[str, ...], report: Report) -> None:
    from dechaff.ir import RequiredPassError

    from .report import miss_text

    for name in required:
        records = [r for r in report.records if r.name.partition("{")[0] == name]
        if any(record.changed for record in records):
            continue
        undone = [record.undone for record in records if record.undone is not None]
        misses = [miss_text(miss) for record in records for miss in record.misses]
        reason = [*undone, *misses, "nothing in the graph comes near its patterns"][0]
        raise RequiredPassError(
            f"{report.source}: the required pass {name} did not apply: {reason}; "
            "no output was written"
        )


def _write_report(report: Report, path: str) -> None:
    from .model_files import write_text

    if path == "-":
        click.echo(report.to_json())
    else:
        write_text(path, report.to_json() + "\n")


def _show(report: Report, *, to_stderr: bool, quiet: bool, verbose: bool) -> None:
    if quiet:
        for warning in report.warnings:
            click.echo(f"dechaff: warning: {warning}", err=True)
        return
    show(report, to_stderr=to_stderr)
    if verbose:
        click.echo(report.explain(), err=to_stderr)


for command in (view, explain, verify, bisect, tune, logs):
    cli.add_command(command)


def main() -> None:
    """Entry point of the ``dechaff`` command."""
    try:
        cli(prog_name="dechaff", obj=ISOLATE)
    except KeyboardInterrupt:  # outside any command: while modules load
        click.echo("dechaff: interrupted", err=True)
        sys.exit(_INTERRUPTED)
    except SystemExit as end:
        end_without_waiting(end.code)
        raise
