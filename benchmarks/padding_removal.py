"""``python -m benchmarks.padding_removal``: dechaff and its peers on a padded batch."""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

from dechaff.backends.onnxruntime.threads import usable_cores

from .accuracy import TOLERANCE, max_error, padding_is_zero
from .arguments import positive
from .exports import Exports
from .inputs import LENGTHS, Array, make_inputs, valid_share
from .machine import versions
from .measure import median_ratio, peak_resident_bytes, progress_bar, time_interleaved
from .models import ARCHITECTURES, ModelUnderTest
from .peers import DECHAFF, DOORS, PEERS, REFERENCE, Runner, Task, installed
from .tables import Results, Row, show, to_json, to_markdown

_DONE, _WRONG_OUTPUTS = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print what it found.

    Returns:
        0; 1 if dechaff's outputs are further from the reference than the tolerance, or its padded
        positions are not zero.
    """
    options = _parse(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory(prefix="dechaff-benchmark-") as folder:
        results = run(options, pathlib.Path(folder))
    if options.json is not None:
        options.json.write_text(to_json(results) + "\n", encoding="utf-8")
    if options.markdown:
        print(to_markdown(results))
    else:
        show(results)
    return _judge(results)


def _judge(results: Results) -> int:
    own = next(row for row in results.rows if row.name == DECHAFF)
    if own.max_error <= TOLERANCE and results.padding_is_zero:
        return _DONE
    print(f"dechaff's outputs are wrong: more than {TOLERANCE} off, or not zero", file=sys.stderr)
    return _WRONG_OUTPUTS


def run(options: argparse.Namespace, folder: pathlib.Path) -> Results:
    """Build all contestants, check their outputs, time them.

    Args:
        options: the command line, parsed.
        folder: for the exported models.
    """
    model = ModelUnderTest(options.model, options.layers)
    inputs = make_inputs(options.batch, options.sequence, options.lengths, model.vocabulary)
    task = Task(model, Exports(model, folder), options.door, usable_cores(), inputs)
    runners, outputs, seconds = _build(task, options.peers)
    timings = time_interleaved(
        {name: runner.run for name, runner in runners.items()}, options.rounds
    )
    mask = inputs["attention_mask"]
    rows = [
        Row(
            name=name,
            title=PEERS[name].title,
            milliseconds=1000 * statistics.median(timings[name]),
            ratio=median_ratio(timings, name, DECHAFF),
            max_error=max_error(outputs[name], outputs[REFERENCE], mask),
            ready_seconds=seconds[name],
            is_dense_peer=PEERS[name].is_dense_peer,
            detail=runner.detail,
        )
        for name, runner in runners.items()
    ]
    return Results(
        setting=_setting(options, task.threads),
        versions=versions(),
        rows=rows,
        valid_share=valid_share(inputs),
        padding_is_zero=padding_is_zero(outputs[DECHAFF], mask),
        peak_resident_bytes=peak_resident_bytes(),
    )


def _build(
    task: Task, names: Sequence[str]
) -> tuple[dict[str, Runner], dict[str, list[Array]], dict[str, float]]:
    """The contestants, their outputs, and the seconds to the first answer, exports left out."""
    runners: dict[str, Runner] = {}
    outputs: dict[str, list[Array]] = {}
    seconds: dict[str, float] = {}
    with progress_bar(len(names), "building") as advance:
        for name in names:
            advance(name)
            exporting, started = task.exports.seconds, time.perf_counter()
            runners[name] = PEERS[name].build(task)
            result = runners[name].run()
            elapsed = time.perf_counter() - started
            seconds[name] = elapsed - (task.exports.seconds - exporting)
            outputs[name] = runners[name].arrays(result)
    return runners, outputs, seconds


def _setting(options: argparse.Namespace, threads: int) -> dict[str, str | int]:
    names = ("model", "layers", "batch", "sequence", "lengths", "door", "rounds")
    given = {name: getattr(options, name) for name in names}
    return {name: value for name, value in given.items() if value is not None} | {
        "threads": threads
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.padding_removal", description=main.__doc__
    )
    parser.add_argument("--model", choices=ARCHITECTURES, default="bert-base")
    parser.add_argument("--layers", type=positive, help="the model's own number by default")
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--sequence", type=positive, default=128)
    parser.add_argument("--lengths", choices=LENGTHS, default="uniform")
    parser.add_argument("--door", choices=DOORS, default="torch", help="how dechaff gets the model")
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=PEERS,
        default=list(PEERS),
        metavar="NAME",
        help=", ".join(PEERS),
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    options = parser.parse_args(arguments)
    # The reference and dechaff always take part: errors and ratios are relative to them.
    options.peers = installed({*options.peers, REFERENCE, DECHAFF})
    return options


if __name__ == "__main__":
    sys.exit(main())
