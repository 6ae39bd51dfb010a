"""The contestants: dechaff, and what one would use in its place, each at its best settings.

A new peer is one ``build`` function and one row of ``PEERS``.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

import dechaff
from dechaff import SessionSettings
from dechaff.backends import runs_in_openvino
from dechaff.settings import AUTO

from .choice import fastest
from .exports import Exports, quiet
from .inputs import Array, Inputs, single_sequences
from .models import ModelUnderTest
from .openvino_requests import best_requests, join_rows

DOORS: dict[str, int | None] = {"torch": None, "onnx18": 18, "onnx23": 23}
"""How the model comes to dechaff: captured from torch, or as a file of that opset."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What every contestant is given.

    Attributes:
        model: the model; its torch module is built when first asked for.
        exports: its ONNX files.
        door: how it comes to dechaff, one of ``DOORS``.
        threads: threads to run on, the same for all.
        inputs: the batch.
        saved: dechaff's results that were saved before, by pass list; others are made.
        sessions: those built so far: contestants that run the same graph share one.
    """

    model: ModelUnderTest
    exports: Exports
    door: str
    threads: int
    inputs: Inputs
    saved: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    sessions: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Runner:
    """A contestant ready to run on the batch; conversions of inputs are behind it.

    Attributes:
        run: runs once; this is what is timed.
        arrays: turns what ``run`` gives into the model's outputs, in order.
        detail: what a reader of the table should know.
    """

    run: Callable[[], Any]
    arrays: Callable[[Any], list[Array]]
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Peer:
    """A contestant.

    Attributes:
        title: how tables name it.
        build: makes it ready to run.
        is_dense_peer: whether it counts for "best dense peer".
        package: what it needs beyond dechaff's own requirements and torch.
    """

    title: str
    build: Callable[[Task], Runner]
    is_dense_peer: bool = False
    package: str | None = None

    def missing(self) -> str | None:
        """Why it cannot take part, on one line; None if it can."""
        if self.package is None or importlib.util.find_spec(self.package) is not None:
            return None
        return f"{self.title} is left out: pip install 'dechaff[peers]' for {self.package}"


def _torch_eager(task: Task) -> Runner:
    import torch

    torch.set_num_threads(task.threads)
    model = task.model.module
    tensors = {name: torch.from_numpy(array) for name, array in task.inputs.items()}

    def run() -> Any:
        with torch.inference_mode():
            return model(**tensors)

    return Runner(run, lambda result: [tensor.numpy() for tensor in result.to_tuple()])


def _torch_compile(task: Task) -> Runner:
    """Inductor, sizes variable: with fixed ones it would compile anew for every shape served."""
    import torch

    torch.set_num_threads(task.threads)
    tensors = {name: torch.from_numpy(array) for name, array in task.inputs.items()}
    if COMPILER not in task.sessions:
        with quiet():
            compiled = torch.compile(task.model.module, backend=COMPILER, dynamic=True)
        task.sessions[COMPILER] = compiled
    compiled = task.sessions[COMPILER]

    def run() -> Any:
        with torch.inference_mode():
            return compiled(**tensors)

    with quiet():
        run()  # compiles
    return Runner(run, lambda result: [tensor.numpy() for tensor in result.to_tuple()])


def _openvino(task: Task) -> Runner:
    compiled = task.sessions.setdefault("openvino", {})
    hint, run = best_requests(task.exports.plain(23), task.inputs, task.threads, compiled)
    return Runner(run, join_rows, f"{hint.lower()} hint")


def _onnxruntime(file: Callable[[Exports], pathlib.Path]) -> Callable[[Task], Runner]:
    def build(task: Task) -> Runner:
        session = _session(task, file(task.exports))
        return Runner(lambda: session.run(None, task.inputs), list)

    return build


def _session(task: Task, path: pathlib.Path) -> Any:
    if path.name not in task.sessions:
        task.sessions[path.name] = new_session(path, task.threads)
    return task.sessions[path.name]


def new_session(path: pathlib.Path, threads: int) -> Any:
    """A session of the runtime at its best settings, on so many threads."""
    options = onnxruntime.SessionOptions()
    SessionSettings(threads).apply_to(options)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _dechaff(passes: str) -> Callable[[Task], Runner]:
    def build(task: Task) -> Runner:
        optimized = _optimized(task, passes)
        runtime = "OpenVINO" if runs_in_openvino(optimized.module) else "ONNX Runtime"
        notes = [] if optimized.report is None else optimized.report.notes
        detail = "; ".join([f"in {runtime}", *notes])
        return Runner(
            lambda: optimized.run(task.inputs), lambda result: list(result.values()), detail
        )

    return build


def dechaff_peer(title: str, passes: str) -> Peer:
    """Dechaff with a pass list of one's own."""
    return Peer(title, _dechaff(passes))


def _optimized(task: Task, passes: str) -> dechaff.OptimizedModel:
    if passes not in task.sessions:
        task.sessions[passes] = _optimize(task, passes)
    optimized: dechaff.OptimizedModel = task.sessions[passes]
    return optimized


def _optimize(task: Task, passes: str) -> dechaff.OptimizedModel:
    """In the faster runtime; the benchmark compares the outputs itself: verification is off."""
    session = SessionSettings(task.threads)
    if passes in task.saved:
        return dechaff.load(task.saved[passes], session=session)
    opset = DOORS[task.door]
    if opset is not None:
        return dechaff.optimize(
            str(task.exports.plain(opset)),
            task.inputs,
            target=AUTO,
            passes=passes,
            verify="off",
            progress=False,
            session=session,
        )
    import torch

    example = {name: torch.from_numpy(array) for name, array in task.inputs.items()}
    return dechaff.optimize(
        task.model.module,
        example,
        target=AUTO,
        passes=passes,
        verify="off",
        progress=False,
        session=session,
    )


def _one_at_a_time(task: Task) -> Runner:
    """Every row alone at its own length, by whichever dense graph is fastest at that."""
    sequences = single_sequences(task.inputs)
    dense = _optimized(task, DENSE_PASSES)
    plain = _session(task, task.exports.plain(18))
    fused = _session(task, task.exports.fused(18))
    candidates: dict[str, Callable[[Inputs], list[Array]]] = {
        "dechaff without remove-padding": lambda row: list(dense.run(row).values()),
        "ONNX Runtime, opset 18": lambda row: plain.run(None, row),
        "ONNX Runtime, optimize_for_ort, opset 18": lambda row: fused.run(None, row),
    }
    some = sequences[:: max(1, len(sequences) // _SAMPLE_ROWS)]
    name = fastest({title: _over(run, some) for title, run in candidates.items()})
    run = candidates[name]
    return Runner(
        _over(run, sequences),
        lambda rows: _stack_rows(rows, task.inputs),
        f"each row through {name}",
    )


def _over(run: Callable[[Inputs], list[Array]], rows: Sequence[Inputs]) -> Callable[[], Any]:
    return lambda: [run(row) for row in rows]


def _stack_rows(rows: list[list[Array]], inputs: Inputs) -> list[Array]:
    """Results of single rows as those of the batch, zero at padded positions."""
    sequence = inputs["attention_mask"].shape[1]
    return [
        np.concatenate([_pad(row, sequence) for row in results])
        for results in zip(*rows, strict=True)
    ]


def _pad(array: Array, sequence: int) -> Array:
    """``[1, length, ...]`` to ``[1, sequence, ...]``; anything of lower rank stays."""
    if array.ndim < 3:
        return array
    missing = sequence - array.shape[1]
    return np.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2))


DECHAFF_PASSES = "default"
DENSE_PASSES = "default,-remove-padding"
COMPILER = "inductor"
"""What ``torch.compile`` compiles with."""
_SAMPLE_ROWS = 4

DECHAFF = "dechaff"
REFERENCE = "torch"
LIMIT = "one-at-a-time"

PEERS: dict[str, Peer] = {
    REFERENCE: Peer("torch eager", _torch_eager, is_dense_peer=True),
    "torch-compile": Peer("torch.compile", _torch_compile, True),
    "openvino": Peer("OpenVINO, opset 23", _openvino, True, package="openvino"),
    "ort18": Peer("ONNX Runtime, opset 18", _onnxruntime(lambda exports: exports.plain(18)), True),
    "ort23": Peer("ONNX Runtime, opset 23", _onnxruntime(lambda exports: exports.plain(23)), True),
    "ort18-fused": Peer(
        "ONNX Runtime, optimize_for_ort, opset 18",
        _onnxruntime(lambda exports: exports.fused(18)),
        True,
    ),
    "ort23-fused": Peer(
        "ONNX Runtime, optimize_for_ort, opset 23",
        _onnxruntime(lambda exports: exports.fused(23)),
        True,
    ),
    "dechaff-dense": Peer("dechaff without remove-padding", _dechaff(DENSE_PASSES)),
    DECHAFF: Peer("dechaff", _dechaff(DECHAFF_PASSES)),
    LIMIT: Peer("limit: one sequence at a time", _one_at_a_time),
}
"""Contestants by the name that ``--peers`` takes. ``torch`` is the reference of all outputs."""


def installed(names: Iterable[str]) -> list[str]:
    """Those that can take part, in order; a line on stderr for each that cannot."""
    chosen = set(names)
    ready: list[str] = []
    for name, peer in PEERS.items():
        missing = peer.missing()
        if name in chosen and missing is None:
            ready.append(name)
        elif name in chosen:
            print(missing, file=sys.stderr)
    return ready
