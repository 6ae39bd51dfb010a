"""``python -m benchmarks.accuracy_driven``: a classifier pruned under its accuracy, and its peers.

MODEL is a folder that ``examples/finetune_sst2.py`` wrote, DATA the folder of sentences. The search
sees the dev sentences and those that the training held out (``--hold-out``), and some that the
model was trained on, without their labels; accuracy is that of the test sentences, time that of the
first batches of them as they come, padded to the longest of each batch. Pruning is searched;
``--passes compress`` asks for the whole chain. With ``--folder`` what was searched is not searched
again, so that searches can be made first (``--only-search``), and times be measured when the
machine is quiet.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import dechaff
from benchmarks.arguments import positive
from benchmarks.exports import Exports
from benchmarks.inputs import Inputs
from benchmarks.machine import versions
from benchmarks.measure import median_ratio, time_interleaved
from benchmarks.peers import DECHAFF, PEERS, Peer, Task, dechaff_peer, installed
from dechaff.backends.onnxruntime.threads import usable_cores
from dechaff.runtime_choice import RUNTIMES
from dechaff.search.confidence import Figures, drop_between
from dechaff.settings import AUTO
from examples.sst2_sentences import read_sentences

from .sentences import SavedClassifier, Sentence, inputs_of
from .tables import DENSE, to_markdown

_MODES = ("accuracy", "size", "speed")
_SEARCHED_ROWS = 32
"""Sentences in a batch of the search, which need not be batches as they are served."""
_CALIBRATION_SENTENCES = 2048
_FOUND = "found.json"
_PRUNING = "shrink"


@dataclasses.dataclass(frozen=True)
class Found:
    """One search's result.

    Attributes:
        mode: what was asked for.
        pass_list: what it found.
        summary: the search in figures.
        model: it, for the runtime that is faster.
    """

    mode: str
    pass_list: str
    summary: dict[str, Any]
    model: dechaff.OptimizedModel

    @property
    def runtime(self) -> str:
        """The runtime that it is for, in words."""
        assert self.model.report is not None  # optimize() always gives one
        return RUNTIMES[self.model.report.target]


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, measure, print; 0."""
    options = _parse(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    model = SavedClassifier(options.model)
    found = [_search(model, options, mode) for mode in options.modes]
    if options.only_search:
        return 0
    with tempfile.TemporaryDirectory(prefix="dechaff-benchmark-") as folder:
        rows = _measure(model, options, found, pathlib.Path(folder))
    record = {
        "setting": {name: str(value) for name, value in vars(options).items()},
        "versions": versions(),
        "rows": rows,
        "searches": [
            {
                "mode": item.mode,
                "pass_list": item.pass_list,
                "summary": item.summary,
                "runtime": item.runtime,
            }
            for item in found
        ],
    }
    print(to_markdown(record))
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def _search(model: SavedClassifier, options: argparse.Namespace, mode: str) -> Found:
    """Search, or read what an earlier run found; make the model for the faster runtime."""
    dev = read_sentences(options.data / "dev.tsv")
    searched = [*dev[: options.limit], *model.held_out()[: options.limit]]
    example = _tensors(model.batches(dev[:_SEARCHED_ROWS], _SEARCHED_ROWS)[0])
    given: dict[str, Any] = {
        "verify": "off",
        "session": dechaff.SessionSettings(options.threads),
        "calibration": _calibration(model, searched, options),
    }
    folder = None if options.folder is None else options.folder / f"{model.name}-{mode}"
    summary = _read_found(folder)
    if summary is None:
        optimized = dechaff.optimize(
            model.module,
            example,
            passes=options.passes,
            metric="accuracy",
            data=model.batches(searched, _SEARCHED_ROWS, by_length=True),
            mode=mode,
            max_drop=options.max_drop,
            margin=options.margin,
            budget=options.budget,
            seed=options.seed,
            search_folder=folder,
            **given,
        )
        assert optimized.report is not None  # optimize() always gives one
        search = optimized.report.search
        assert search is not None  # a metric was given
        summary = search.to_dict()
        _keep_found(folder, summary)
        if options.plot is not None:
            options.plot.mkdir(parents=True, exist_ok=True)
            for ending in ("png", "svg"):
                search.plot(options.plot / f"{model.name}-{mode}.{ending}")
    passes = summary["passes"]
    served = dechaff.optimize(model.module, example, target=AUTO, passes=passes, **given)
    return Found(mode, passes, summary, served)


def _read_found(folder: pathlib.Path | None) -> dict[str, Any] | None:
    path = None if folder is None else folder / _FOUND
    if path is None or not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def _keep_found(folder: pathlib.Path | None, summary: dict[str, Any]) -> None:
    if folder is not None:
        (folder / _FOUND).write_text(json.dumps(summary, indent=1) + "\n", "utf-8")


def _calibration(
    model: SavedClassifier, searched: Sequence[Sentence], options: argparse.Namespace
) -> list[Inputs]:
    """Sentences without their labels, of any length from the first batch on."""
    sentences = searched
    if options.calibration == "train":
        unseen = set(model.held_out())
        train = [each for each in read_sentences(options.data / "train.tsv") if each not in unseen]
        sentences = train[:_CALIBRATION_SENTENCES]
    data = model.batches(sentences, _SEARCHED_ROWS, by_length=True)
    random.Random(options.seed).shuffle(data)
    return [inputs_of(batch) for batch in data]


def _tensors(batch: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(array) for name, array in inputs_of(batch).items()}


def _measure(
    model: SavedClassifier,
    options: argparse.Namespace,
    found: Sequence[Found],
    folder: pathlib.Path,
) -> list[dict[str, Any]]:
    """A row for each contestant: times on the first test batches, accuracy on all of them."""
    sentences = read_sentences(options.data / "test.tsv")[: options.limit]
    test = model.batches(sentences, options.batch)
    exports = Exports(model, folder)
    sessions: dict[str, Any] = {item.pass_list: item.model for item in found}
    peers: dict[str, Peer] = {name: PEERS[name] for name in installed([*options.peers, DECHAFF])}
    for item in found:
        peers[item.mode] = dechaff_peer(f"dechaff, mode {item.mode}", item.pass_list)
    runs: dict[str, Callable[[], Any]] = {}
    answers: dict[str, Figures] = {}
    for name, peer in peers.items():
        tasks = [
            Task(model, exports, "torch", options.threads, inputs_of(batch), sessions=sessions)
            for batch in (test[: options.batches] if name in DENSE else test)
        ]
        runners = [peer.build(task) for task in tasks]
        right = [
            runner.arrays(runner.run())[0].argmax(axis=1) == batch["labels"]
            for runner, batch in zip(runners, test, strict=False)
        ]
        answers[name] = Figures.of_rows(np.concatenate(right).astype(np.float64))
        timed = [runner.run for runner in runners[: options.batches]]
        runs[name] = lambda timed=timed: [run() for run in timed]  # type: ignore[misc]
    timings = time_interleaved(runs, options.rounds)
    return [
        {
            "name": name,
            "title": peer.title,
            "milliseconds": 1000 * statistics.median(timings[name]) / options.batches,
            "ratio": median_ratio(timings, name, DECHAFF),
            **_accuracy(answers, name),
            **_sizes(sessions, name, found),
        }
        for name, peer in peers.items()
    ]


def _accuracy(answers: Mapping[str, Figures], name: str) -> dict[str, Any]:
    """That on all test sentences, and how far below dechaff's exact model it is; no peer's."""
    if name in DENSE:
        return {"accuracy": None, "drop": None}
    drop = drop_between(answers[DECHAFF], answers[name])
    return {"accuracy": answers[name].score, "drop": dataclasses.asdict(drop)}


def _sizes(sessions: dict[str, Any], name: str, found: Sequence[Found]) -> dict[str, float | None]:
    """Megabytes of all weights, and of those that are multiplied with."""
    lists = {DECHAFF: "default"} | {item.mode: item.pass_list for item in found}
    optimized = sessions.get(lists.get(name, ""))
    if optimized is None:
        return {"megabytes": None, "layers_megabytes": None}
    weights = optimized.module.graph.initializers.values()
    tables = {node.inputs[0] for node in optimized.module.graph if node.op_type == "Gather"}
    sizes = {value: value.const_value.nbytes / 1e6 for value in weights if value.const_value}
    layers = sum(size for value, size in sizes.items() if value not in tables)
    return {"megabytes": sum(sizes.values()), "layers_megabytes": layers}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy_driven",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=pathlib.Path, help="folder of the fine-tuned model")
    parser.add_argument("data", type=pathlib.Path, help="folder of dev.tsv and test.tsv")
    parser.add_argument("--modes", nargs="*", choices=_MODES, default=["accuracy", "speed"])
    parser.add_argument("--passes", default=_PRUNING, help="pass list that is searched")
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--margin", type=float, default=1.0, help="in standard errors")
    parser.add_argument(
        "--calibration",
        choices=("train", "searched"),
        default="train",
        help="which sentences passes look at, without their labels",
    )
    parser.add_argument("--budget", default="10min", help="of each search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--batches", type=positive, default=8, help="test batches that are timed")
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--limit", type=int, help="only so many sentences")
    parser.add_argument("--peers", nargs="*", choices=DENSE, default=list(DENSE))
    parser.add_argument("--folder", type=pathlib.Path, help="where searches go on if stopped")
    parser.add_argument("--plot", type=pathlib.Path, help="folder for a plot of each search")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--only-search", action="store_true", help="measure in a later run")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
