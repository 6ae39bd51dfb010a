"""What the commands share: options, inputs from files, tables on the screen."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from .isolation import Limits, isolate, memory_limit, time_limit

_LEAST_MEMORY = 0.5
_PLAIN_WIDTH = 160
"""Width of tables where no terminal says one."""

ISOLATE = "isolate"
"""The context's object where commands may go on in a child process."""

DEBUG = "dechaff.debug"
"""Key under which the context knows that ``--debug`` was given."""


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta[DEBUG] = True


def debug_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--debug``."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_remember_debug,
        help="Show the traceback of an error.",
    )(command)


def isolation_options(command: Callable[..., None]) -> Callable[..., None]:
    """Run a command that reads models in a child process, with limits; see ``isolation.py``.

    Only where the context's object says ``ISOLATE``: the program does, and a caller of the commands
    within a process of its own does not.
    """

    @functools.wraps(command)
    def guarded(
        isolate: bool, max_memory: float | None, max_seconds: float | None, **given: Any
    ) -> None:
        if isolate and click.get_current_context().find_root().obj == ISOLATE:
            _go_on_in_child(_limits(max_memory, max_seconds, given))
        command(**given)

    options = (
        click.option(
            "--isolate/--no-isolate",
            default=True,
            help="Work in a child process, so that a crash in native code is an error (default).",
        ),
        click.option(
            "--max-memory",
            type=click.FloatRange(min=0),
            metavar="GIB",
            help="Memory of the child; default by the model's size, 0 is no limit.",
        ),
        click.option(
            "--max-seconds",
            type=click.FloatRange(min=0),
            metavar="S",
            help="Time of the child; default by the model's size, 0 is no limit.",
        ),
    )
    for option in reversed(options):
        guarded = option(guarded)
    return guarded


def calibration_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--calibration`` and ``--tokenizer``; the command gets them as one ``calibration``."""

    @functools.wraps(command)
    def gathered(calibration: str | None, tokenizer: str | None, **given: Any) -> None:
        command(calibration={"calibration": calibration, "tokenizer": tokenizer}, **given)

    text = "Typical inputs, for passes that measure: .npz, a folder of them, or text."
    path = click.option("--calibration", metavar="PATH", help=text)
    file = click.option("--tokenizer", metavar="FILE", help="tokenizer.json for calibration text.")
    return path(file(gathered))


def _limits(max_memory: float | None, max_seconds: float | None, given: dict[str, Any]) -> Limits:
    """What was asked for; inputs and commands of the caller's own may take what they need."""
    if max_memory is not None and 0 < max_memory < _LEAST_MEMORY:
        raise click.UsageError(f"--max-memory: the libraries alone take {_LEAST_MEMORY} GiB.")
    memory = None if max_memory is None else int(max_memory * 2**30) or None
    files = list(_existing_files(given))
    is_own = any(given.get(name) for name in ("inputs_path", "data_path"))
    if max_memory is None and not is_own:
        memory = memory_limit(files)
    if max_seconds is None and not is_own and given.get("check") is None:
        max_seconds = time_limit(files)
    debug = click.get_current_context().find_root().meta.get(DEBUG, False)
    return Limits(memory, max_seconds or None, show_crash=debug)


def _existing_files(given: dict[str, Any]) -> Iterator[str]:
    for value in given.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, str) and "\0" not in item and os.path.isfile(item):
                yield item


def _go_on_in_child(limits: Limits) -> None:
    """Return in the child; end the parent as the child ended."""
    outcome = isolate(limits)
    if outcome is None:
        return
    if outcome.interrupted:
        raise KeyboardInterrupt
    if outcome.exit_code is None:
        from dechaff.ir import CrashedError

        raise CrashedError(outcome.problem)
    click.get_current_context().exit(outcome.exit_code)


def read_inputs(path: str) -> dict[str, Any]:
    """The arrays of an ``.npz`` file, by name; nothing is unpickled.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    from .arrays import read_arrays

    return read_arrays(path, "--inputs")


def show(renderable: Any, *, to_stderr: bool = False) -> None:
    """Print anything that rich can show."""
    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    width = None if stream.isatty() else _PLAIN_WIDTH
    Console(file=stream, width=width, soft_wrap=False).print(renderable)
