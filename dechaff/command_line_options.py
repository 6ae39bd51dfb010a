"""What the commands share: options, inputs from files, tables on the screen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

_PLAIN_WIDTH = 160
"""Width of tables where no terminal says one."""

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
