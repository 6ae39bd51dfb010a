"""The contestants: dechaff, and what one would use in its place, each at its best settings.

A new peer is one ``build`` function and one row of ``PEERS``.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

import dechaff

from .exports import Exports
from .inputs import Array, Inputs, single_sequences

if TYPE_CHECKING:
    import torch

DOORS: dict[str, int | None] = {"torch": None, "onnx18": 18, "onnx23": 23}
"""How the model comes to dechaff: captured from torch, or as a file of that opset."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What every contestant is given.

    Attributes:
        model: the torch model.
        exports: its ONNX files.
        door: how it comes to dechaff, one of ``DOORS``.
        threads: threads to run on, the same for all.
        inputs: the batch.
        sessions: those built so far: contestants that run the same graph share one.
    """

    model: torch.nn.Module
    exports: Exports
    door: str
    threads: int
    inputs: Inputs
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
    """

    title: str
    build: Callable[[Task], Runner]
    is_dense_peer: bool = False


def _torch_eager(task: Task) -> Runner:
    import torch

    torch.set_num_threads(task.threads)
    tensors = {name: torch.from_numpy(array) for name, array in task.inputs.items()}

    def run() -> Any:
        with torch.inference_mode():
            return task.model(**tensors)

    return Runner(run, lambda result: [tensor.numpy() for tensor in result.to_tuple()])


def _onnxruntime(file: Callable[[Exports], pathlib.Path]) -> Callable[[Task], Runner]:
    def build(task: Task) -> Runner:
        session = _session(task, file(task.exports))
        return Runner(lambda: session.run(None, task.inputs), list)

    return build


def _session(task: Task, path: pathlib.Path) -> Any:
    if path.name not in task.sessions:
        task.sessions[path.name] = _new_session(path, task.threads)
    return task.sessions[path.name]


def _new_session(path: pathlib.Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _dechaff(passes: str) -> Callable[[Task], Runner]:
    def build(task: Task) -> Runner:
        optimized = _optimized(task, passes)
        assert optimized.report is not None  # optimize() always gives one
        detail = " ".join(optimized.report.notes)
        return Runner(
            lambda: optimized.run(task.inputs), lambda result: list(result.values()), detail
        )

    return build


def _optimized(task: Task, passes: str) -> dechaff.OptimizedModel:
    if passes not in task.sessions:
        task.sessions[passes] = _optimize(task, passes)
    optimized: dechaff.OptimizedModel = task.sessions[passes]
    return optimized


def _optimize(task: Task, passes: str) -> dechaff.OptimizedModel:
    """The benchmark compares the outputs itself, so verification is off."""
    opset = DOORS[task.door]
    if opset is not None:
        return dechaff.optimize(
            str(task.exports.plain(opset)), passes=passes, verify="off", progress=False
        )
    import torch

    example = {name: torch.from_numpy(array) for name, array in task.inputs.items()}
    return dechaff.optimize(task.model, example, passes=passes, verify="off", progress=False)


def _one_at_a_time(task: Task) -> Runner:
    """Every row alone at its own length, by whichever dense graph is fastest at that."""
    sequences = single_sequences(task.inputs)
    dense = _optimized(task, _DENSE_PASSES)
    plain = _session(task, task.exports.plain(18))
    fused = _session(task, task.exports.fused(18))
    candidates: dict[str, Callable[[], list[list[Array]]]] = {
        "dechaff without remove-padding": lambda: [list(dense.run(s).values()) for s in sequences],
        "ONNX Runtime, opset 18": lambda: [plain.run(None, s) for s in sequences],
        "ONNX Runtime, optimize_for_ort, opset 18": lambda: [fused.run(None, s) for s in sequences],
    }
    name = min(candidates, key=lambda candidate: _second_run_seconds(candidates[candidate]))
    return Runner(
        candidates[name], lambda rows: _stack_rows(rows, task.inputs), f"each row through {name}"
    )


def _second_run_seconds(run: Callable[[], Any]) -> float:
    run()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


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


_DENSE_PASSES = "default,-remove-padding"

DECHAFF = "dechaff"
REFERENCE = "torch"
LIMIT = "one-at-a-time"

PEERS: dict[str, Peer] = {
    REFERENCE: Peer("torch eager", _torch_eager, is_dense_peer=True),
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
    "dechaff-dense": Peer("dechaff without remove-padding", _dechaff(_DENSE_PASSES)),
    DECHAFF: Peer("dechaff", _dechaff("default")),
    LIMIT: Peer("limit: one sequence at a time", _one_at_a_time),
}
"""Contestants by the name that ``--peers`` takes. ``torch`` is the reference of all outputs."""
