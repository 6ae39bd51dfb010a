"""``python -m benchmarks.quantization``: 8-bit models of dechaff and its peers on a padded batch.

With ``--checkpoint`` and ``--data`` it measures, in place of time, what quantization costs a
fine-tuned classifier: accuracy on the labelled sentences of ``dev.tsv``, and on these with those of
``test.tsv`` and those that the training held out, where there are any. With ``--sizes`` it saves
``--model`` under each pass list and measures the files.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Sequence

from dechaff.backends import TARGETS
from dechaff.backends.onnxruntime.threads import usable_cores

from .accuracy import padding_is_zero
from .arguments import positive
from .classifier_accuracy import Row, SizeSearch, measure_accuracy
from .exports import Exports
from .inputs import Array, make_inputs
from .measure import median_ratio, progress_bar, time_interleaved
from .models import ARCHITECTURES, ModelUnderTest
from .peers import Runner, Task
from .quantization_plot import plot
from .quantized_peers import QUANTIZED_PEERS
from .quantized_sizes import measure_sizes

_DONE, _WRONG = 0, 1
_PASS_LISTS = (
    "default",
    "default,quantize-dynamic",
    "default,quantize-dynamic{activations=tensor}",
    "default,quantize-static",
    "default,quantize-static{smooth=0.7}",
    "default,quantize-static{smooth=0.7,attention=true}",
    "default,quantize-weights{bits=8,group=0}",
    "default,quantize-weights{bits=4}",
    "default,quantize-weights{bits=4,method=gptq}",
    "default,quantize-weights{bits=3}",
    "default,quantize-weights{bits=3,method=gptq}",
    "default,quantize-weights{average=3}",
    "default,quantize-weights{average=4}",
    "default,quantize-blockwise",
    "default,quantize-blockwise{method=gptq}",
    "default,quantize-blockwise{group=0}",
    "default,quantize-blockwise{group=0,method=gptq}",
)
_WITHOUT_DATA = ("default", "default,quantize-blockwise", "default,quantize-blockwise{group=0}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print what it found.

    Returns:
        0; 1 if dechaff's padded positions are not zero.
    """
    options = _parse(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.checkpoint is not None:
        _measure_accuracy(options)
        return _DONE
    if options.sizes:
        for line in measure_sizes(ModelUnderTest(options.model, options.layers), options.passes):
            print(line, flush=True)
        return _DONE
    with tempfile.TemporaryDirectory(prefix="dechaff-benchmark-") as folder:
        return _time(options, pathlib.Path(folder))


def _measure_accuracy(options: argparse.Namespace) -> None:
    rows: list[Row] = []
    for line in measure_accuracy(
        options.checkpoint,
        options.data,
        options.passes,
        options.target,
        options.calibration_sentences,
        options.search and SizeSearch(options.search, options.max_drop, options.budget),
    ):
        print(line, flush=True)
        if isinstance(line, Row):
            rows.append(line)
    for path in options.plot:
        plot(rows, path)


def _time(options: argparse.Namespace, folder: pathlib.Path) -> int:
    model = ModelUnderTest(options.model, options.layers)
    inputs = make_inputs(options.batch, options.sequence, "uniform", model.vocabulary)
    task = Task(model, Exports(model, folder), "onnx18", usable_cores(), inputs)
    runners, outputs = _build(task, options.peers)
    timings = time_interleaved({n: r.run for n, r in runners.items()}, options.rounds)
    own = [name for name in runners if name.startswith("dechaff")]
    base = min(own or runners, key=lambda name: statistics.median(timings[name]))
    mask = inputs["attention_mask"]
    print(f"{options.model}, B={options.batch}, S={options.sequence}, {options.rounds} rounds")
    print("| contestant | median ms | times dechaff's fastest | relative error |")
    print("| --- | ---: | ---: | ---: |")
    for name, runner in runners.items():
        milliseconds = 1000 * statistics.median(timings[name])
        ratio = median_ratio(timings, name, base)
        error = _relative_error(outputs[name][0], next(iter(outputs.values()))[0], mask)
        title = QUANTIZED_PEERS[name].title + (f" ({runner.detail})" if runner.detail else "")
        print(f"| {title} | {milliseconds:.1f} | {ratio:.2f}x | {error:.4f} |")
    return _DONE if all(padding_is_zero(outputs[name], mask) for name in own) else _WRONG


def _build(task: Task, names: Sequence[str]) -> tuple[dict[str, Runner], dict[str, list[Array]]]:
    runners: dict[str, Runner] = {}
    outputs: dict[str, list[Array]] = {}
    with progress_bar(len(names), "building") as advance:
        for name in names:
            advance(name)
            missing = QUANTIZED_PEERS[name].missing()
            if missing is not None:
                print(missing, file=sys.stderr)
                continue
            try:
                runner = QUANTIZED_PEERS[name].build(task)
                outputs[name] = runner.arrays(runner.run())
            except Exception as error:  # one that fails must not cost the figures of the others
                print(f"{QUANTIZED_PEERS[name].title} is left out: {error}", file=sys.stderr)
                continue
            runners[name] = runner
    return runners, outputs


def _relative_error(found: Array, expected: Array, mask: Array) -> float:
    valid = mask == 1
    difference = statistics.fmean(((found[valid] - expected[valid]) ** 2).mean(axis=-1))
    return float((difference / statistics.fmean((expected[valid] ** 2).mean(axis=-1))) ** 0.5)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantization", description=main.__doc__
    )
    parser.add_argument("--model", choices=ARCHITECTURES, default="bert-base")
    parser.add_argument("--layers", type=int, help="the model's own number by default")
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--sequence", type=int, default=128)
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument(
        "--peers", nargs="+", choices=QUANTIZED_PEERS, default=list(QUANTIZED_PEERS)
    )
    parser.add_argument("--checkpoint", type=pathlib.Path, help="a fine-tuned classifier")
    parser.add_argument("--data", type=pathlib.Path, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--passes", nargs="+", help="with --checkpoint or --sizes")
    parser.add_argument("--target", choices=TARGETS, default="cpu", help="with --checkpoint")
    parser.add_argument("--sizes", action="store_true", help="measure size on disk only")
    parser.add_argument(
        "--calibration-sentences", type=int, default=256, help="of train.tsv, with --checkpoint"
    )
    parser.add_argument(
        "--search",
        metavar="PASSES",
        help="with --checkpoint, search these for the smallest model, on its held-out sentences",
    )
    parser.add_argument("--max-drop", type=float, default=0.01, help="of --search")
    parser.add_argument("--budget", default="10min", help="of --search")
    parser.add_argument(
        "--plot",
        nargs="+",
        type=pathlib.Path,
        default=[],
        metavar="PATH",
        help="draw error and accuracy over size, with --checkpoint; the ending tells the format",
    )
    options = parser.parse_args(arguments)
    if (options.checkpoint is None) != (options.data is None):
        parser.error("--checkpoint and --data go together")
    if options.search and options.checkpoint is None:
        parser.error("--search looks for what --checkpoint measures")
    if options.plot and options.checkpoint is None:
        parser.error("--plot draws what --checkpoint measures")
    if options.sizes and options.checkpoint is not None:
        parser.error("--sizes is for --model, and --checkpoint measures sizes too")
    options.passes = options.passes or list(_WITHOUT_DATA if options.sizes else _PASS_LISTS)
    return options


if __name__ == "__main__":
    sys.exit(main())
