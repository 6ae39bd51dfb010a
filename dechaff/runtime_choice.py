"""Which runtime a model is lowered for: the one that runs it in less time on this machine."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from dechaff.backends import RunningModel, SessionSettings, has_openvino, start_session
from dechaff.ir import DechaffError, Module

from .arrays import Array

_LEAST_GAIN = 0.97
"""Below this share of its time another way is taken than the usual one: OpenVINO in place of ONNX
Runtime, which everybody has, or padding that is kept. Above it, what is gained may be noise."""
_MEASUREMENTS = 2
_TURNS, _MEASUREMENT_SECONDS = 9, 4.0
_TURN_SECONDS = 0.05
_REST_SECONDS = 0.05
"""Idle threads of the session before spin for a while, and would take the next one's cores."""

Seconds = dict[str, float]
"""How long a run takes, by contestant."""

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
) -> tuple[bool, Seconds]:
    """Whether another way is faster than the usual one by more than noise, and what either takes.

    Turn by turn the two are held against each other, so that what slows both does not count. Each
    of two measurements has to find the other one faster, since what else the machine does may
    slow one of them all through a measurement; and both together by more than noise.
    """
    turns: list[Seconds] = []
    for _ in range(_MEASUREMENTS):
        found = timed_turns(sessions, inputs)
        if _median_ratio(found, other, usual) >= 1:
            return False, _typical(found, other, usual)
        turns += found
    seconds = _typical(turns, other, usual)
    return seconds[other] < _LEAST_GAIN * seconds[usual], seconds


def _typical(turns: Sequence[Seconds], other: str, usual: str) -> Seconds:
    """The usual one's median, and of the other what their ratio makes of it."""
    seconds = statistics.median(turn[usual] for turn in turns)
    return {usual: seconds, other: seconds * _median_ratio(turns, other, usual)}


def _median_ratio(turns: Sequence[Seconds], other: str, usual: str) -> float:
    return statistics.median(turn[other] / turn[usual] for turn in turns)


def timed_turns(sessions: Mapping[str, RunningModel], inputs: Mapping[str, Array]) -> list[Seconds]:
    """Seconds of a run of each, in turns, after one that does not count."""
    for session in sessions.values():
        session.run(inputs)
    began = time.perf_counter()
    turns: list[Seconds] = []
    while not turns or (len(turns) < _TURNS and time.perf_counter() - began < _MEASUREMENT_SECONDS):
        turns.append({name: _run_seconds(session, inputs) for name, session in sessions.items()})
    return turns


def _run_seconds(session: RunningModel, inputs: Mapping[str, Array]) -> float:
    """The median of the runs that a short while holds: the shortest are not what is served."""
    time.sleep(_REST_SECONDS)
    began, runs = time.perf_counter(), []
    while True:
        started = time.perf_counter()
        session.run(inputs)
        ended = time.perf_counter()
        runs.append(ended - started)
        if ended - began >= _TURN_SECONDS:
            return statistics.median(runs)
