"""The options of ``dechaff optimize`` that ask for a search over a metric."""

from __future__ import annotations

import functools
import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

import click

_BATCH_SIZE = 16


def search_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options; the command gets them as one mapping ``search``, empty if none is given."""

    @functools.wraps(command)
    def with_search(
        metric: str | None,
        data_path: str | None,
        max_drop: float,
        margin: float,
        budget: str,
        mode: str,
        seed: int,
        search_folder: str | None,
        plot_path: str | None,
        **given: Any,
    ) -> None:
        search: dict[str, Any] = {}
        if metric is not None or data_path is not None:
            search = {
                "metric": None if metric is None else _metric(metric),
                "data": None if data_path is None else _batches(data_path),
                "max_drop": max_drop,
                "margin": margin,
                "budget": budget,
                "mode": mode,
                "seed": seed,
                "search_folder": search_folder,
            }
        elif plot_path is not None or search_folder is not None:
            raise click.UsageError("--plot and --search-folder belong to a search: give --metric.")
        command(search=search, plot_path=plot_path, **given)

    options = (
        click.option(
            "--metric",
            metavar="NAME",
            help="accuracy, f1, spearman, cosine, or FILE.py:FUNCTION of outputs and batch.",
        ),
        click.option(
            "--data",
            "data_path",
            metavar="X.npz",
            help="Arrays of inputs and 'labels', row by row.",
        ),
        click.option(
            "--max-drop", type=float, default=0.01, metavar="D", help="How far the metric may fall."
        ),
        click.option(
            "--margin",
            type=float,
            default=1.0,
            metavar="E",
            help="Standard errors by which it must stay within that.",
        ),
        click.option("--budget", default="10min", metavar="T", help="Time for the search."),
        click.option(
            "--mode", default="speed", metavar="speed|size|accuracy", help="What is wanted."
        ),
        click.option("--seed", type=int, default=0, metavar="N", help="Which rows are held out."),
        click.option("--search-folder", metavar="DIR", help="Go on from here if stopped."),
        click.option(
            "--plot", "plot_path", metavar="P.svg", help="Draw metric, time and size of the models."
        ),
    )
    for option in reversed(options):
        with_search = option(with_search)
    return with_search


def _batches(path: str) -> list[dict[str, Any]]:
    """The rows of an ``.npz`` file in batches of 16."""
    from .arrays import read_arrays

    arrays = read_arrays(path, "--data")
    sizes = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise click.UsageError(f"--data {path}: the arrays differ in rows ({found}).")
    rows = next(iter(sizes.values()), 0)
    return [
        {name: array[start : start + _BATCH_SIZE] for name, array in arrays.items()}
        for start in range(0, rows, _BATCH_SIZE)
    ]


def _metric(text: str) -> Any:
    """A named metric as it is; the function that ``FILE.py:FUNCTION`` names."""
    path, separator, name = text.rpartition(":")
    if not separator:
        return text
    if not pathlib.Path(path).is_file():
        raise click.UsageError(f"--metric {text}: there is no file {path}.")
    specification = importlib.util.spec_from_file_location("metric", path)
    if specification is None or specification.loader is None:
        raise click.UsageError(f"--metric {text}: {path} is no Python file.")
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise click.UsageError(f"--metric {text}: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, name, None)):
        raise click.UsageError(f"--metric {text}: {path} has no function {name}.")
    return getattr(module, name)
