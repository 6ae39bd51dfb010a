"""Which runtime a model is lowered for: the one that runs it in less time on this machine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping

from dechaff.backends import RunningModel, SessionSettings, has_openvino, start_session
from dechaff.ir import DechaffError, Module

from .arrays import Array

_LEAST_GAIN = 0.95
"""Below this share of its time another way is taken than the usual one: OpenVINO in place of ONNX
Runtime, which everybody has, or padding that is kept. Above it, what is gained may be noise."""
_MEASUREMENTS = 2
_TURNS, _LONG_SECONDS = 5, 1.0
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
    """Run the whole model in each runtime that is installed, in turns, on the same batch.

    Args:
        lower_for: the module lowered for a target.
        inputs: the batch, an array per graph input.
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
        faster, seconds = is_clearly_faster("openvino", "cpu", sessions, inputs)
    except DechaffError as error:
        return RuntimeChoice("cpu", f"runs in ONNX Runtime: {error}")
    times = {f"{RUNTIMES[target]} takes": value for target, value in seconds.items()}
    target = "openvino" if faster else "cpu"
    return RuntimeChoice(target, f"runs in {RUNTIMES[target]}: {measured(inputs, times)}")


def measured(inputs: Mapping[str, Array], seconds: Mapping[str, float]) -> str:
    """What was timed, in words: the shapes of the inputs, and milliseconds by contestant."""
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
    figures = ", ".join(f"{name} {1e3 * each:.1f} ms" for name, each in seconds.items())
    return f"measured on {shapes}, {figures}"


def is_clearly_faster(
    other: str, usual: str, sessions: Mapping[str, RunningModel], inputs: Mapping[str, Array]
) -> tuple[bool, dict[str, float]]:
    """Whether another way is faster than the usual one by more than noise, and the last times.

    It has to be so twice: what else the machine does may slow one of them all through its turns.
    """
    for _ in range(_MEASUREMENTS):
        seconds = shortest_runs(sessions, inputs)
        if seconds[other] >= _LEAST_GAIN * seconds[usual]:
            return False, seconds
    return True, seconds


def shortest_runs(
    sessions: Mapping[str, RunningModel], inputs: Mapping[str, Array]
) -> dict[str, float]:
    """Seconds of the shortest run of each, in turns, after one that does not count."""
    for session in sessions.values():
        session.run(inputs)
    best = dict.fromkeys(sessions, float("inf"))
    for _ in range(_TURNS):
        for name, session in sessions.items():
            best[name] = min(best[name], _shortest_run(session, inputs))
        if sum(best.values()) > _LONG_SECONDS:
            break
    return best


def _shortest_run(session: RunningModel, inputs: Mapping[str, Array]) -> float:
    time.sleep(_REST_SECONDS)
    began, best = time.perf_counter(), float("inf")
    while True:
        started = time.perf_counter()
        session.run(inputs)
        ended = time.perf_counter()
        best = min(best, ended - started)
        if ended - began >= _TURN_SECONDS:
            return best
