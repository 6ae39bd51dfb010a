"""Which runtime a model is lowered for: the one that runs it in less time on this machine.

Served batches differ in shape from one to the next, and a runtime may be fast on a shape that it
has just seen and slower on any other, as OpenVINO is. So a batch is timed together with shorter
ones.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dechaff.backends import RunningModel, SessionSettings, has_openvino, start_session
from dechaff.ir import DechaffError, Module

from .arrays import Array
from .batch_shapes import shorter_batches

_LEAST_GAIN = 0.95
"""Below this share of its time another way is taken than the usual one: OpenVINO in place of ONNX
Runtime, which everybody has, or padding that is kept. Above it, what is gained may be noise."""
_MEASUREMENTS = 2
_TURNS, _MEASUREMENT_SECONDS = 5, 4.0
_SHORTER_BATCHES, _LONG_SECONDS = 3, 0.5
"""Where a run takes long, a change of shape costs nothing that counts, and more runs very much."""
_TURN_SECONDS = 0.05
_REST_SECONDS = 0.05
"""Idle threads of the session before spin for a while, and would take the next one's cores."""

RUNTIMES = {"cpu": "ONNX Runtime", "openvino": "OpenVINO"}
"""The targets to choose from, by what runs them."""


@dataclasses.dataclass(frozen=True)
class RuntimeChoice:
    """The target, and a line that says why."""

    target: str
    reason: str


def choose_runtime(
    lower_for: Callable[[str], Module],
    inputs: Mapping[str, Array],
    settings: SessionSettings,
) -> RuntimeChoice:
    """Run the whole model in each runtime that is installed, in turns, on the same batches.

    Args:
        lower_for: the module lowered for a target.
        inputs: the batch, an array per graph input; its first positions are timed as well.
        settings: threads of either.
    """
    for_cpu = lower_for("cpu")
    if not has_openvino():
        reason = "runs in ONNX Runtime: OpenVINO is not installed to be compared with"
        return RuntimeChoice("cpu", reason)
    for_openvino = lower_for("openvino")
    try:
        other = start_session(for_openvino, settings)
        sessions = {"cpu": start_session(for_cpu, settings), "openvino": other}
        batches = _batches_to_time(for_cpu, sessions, inputs)
        faster, seconds = is_clearly_faster("openvino", "cpu", sessions, batches)
    except DechaffError as error:
        return RuntimeChoice("cpu", f"runs in ONNX Runtime: {error}")
    times = {f"{RUNTIMES[target]} takes": value for target, value in seconds.items()}
    target = "openvino" if faster else "cpu"
    return RuntimeChoice(target, f"runs in {RUNTIMES[target]}: {measured(batches, times)}")


def _batches_to_time(
    module: Module, sessions: Mapping[str, RunningModel], inputs: Mapping[str, Array]
) -> Sequence[Mapping[str, Array]]:
    """The batch, and shorter ones if it is soon done and the model takes them; all run once."""
    warm_up(sessions, [inputs])
    for session in sessions.values():
        started = time.perf_counter()
        session.run(inputs)
        if time.perf_counter() - started > _LONG_SECONDS:
            return [inputs]
    shorter = shorter_batches(module, inputs, _SHORTER_BATCHES)
    try:
        warm_up(sessions, shorter)
    except DechaffError:  # of an even length only, say
        return [inputs]
    return [inputs, *shorter]


def warm_up(sessions: Mapping[str, RunningModel], batches: Sequence[Mapping[str, Array]]) -> None:
    """Run every batch once in every session: first runs are slower, and not to be timed."""
    for session in sessions.values():
        for batch in batches:
            session.run(batch)


def measured(batches: Sequence[Mapping[str, Array]], seconds: Mapping[str, float]) -> str:
    """What was timed, in words: the shapes of the inputs, and milliseconds by contestant."""
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in batches[0].items())
    others = f" and {len(batches) - 1} shorter batches" if len(batches) > 1 else ""
    figures = ", ".join(f"{name} {1e3 * each:.1f} ms" for name, each in seconds.items())
    return f"measured on {shapes}{others}, {figures}"


def is_clearly_faster(
    other: str,
    usual: str,
    sessions: Mapping[str, RunningModel],
    batches: Sequence[Mapping[str, Array]],
) -> tuple[bool, dict[str, float]]:
    """Whether another way is faster than the usual one by more than noise, and the last times.

    It has to be so twice: what else the machine does may slow one of them all through its turns.
    """
    for _ in range(_MEASUREMENTS):
        seconds = shortest_runs(sessions, batches)
        if seconds[other] >= _LEAST_GAIN * seconds[usual]:
            return False, seconds
    return True, seconds


def shortest_runs(
    sessions: Mapping[str, RunningModel], batches: Sequence[Mapping[str, Array]]
) -> dict[str, float]:
    """Seconds a batch takes each session, in turns: the mean of the shortest runs of the batches.

    In a turn batch follows batch. The sessions are warm.
    """
    turns: dict[str, list[list[float]]] = {name: [] for name in sessions}
    began = time.perf_counter()
    for _ in range(_TURNS):
        for name, session in sessions.items():
            turns[name].append(_turn(session, batches))
        if time.perf_counter() - began > _MEASUREMENT_SECONDS:
            break
    return {name: float(np.mean(np.min(found, axis=0))) for name, found in turns.items()}


def _turn(session: RunningModel, batches: Sequence[Mapping[str, Array]]) -> list[float]:
    """Seconds of the shortest run of each batch, one after the other for a short while."""
    time.sleep(_REST_SECONDS)
    began, best = time.perf_counter(), [float("inf")] * len(batches)
    while time.perf_counter() - began < _TURN_SECONDS:
        for index, batch in enumerate(batches):
            started = time.perf_counter()
            session.run(batch)
            best[index] = min(best[index], time.perf_counter() - started)
    return best
