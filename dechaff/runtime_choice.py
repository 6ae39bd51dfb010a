"""Which runtime a model is lowered for: the one that runs it in less time on this machine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping

from dechaff.backends import RunningModel, SessionSettings, has_openvino, start_session
from dechaff.ir import DechaffError, Module

from .arrays import Array

_LEAST_GAIN = 0.95
"""OpenVINO is chosen below this share of ONNX Runtime's time: within the noise the runtime that
everybody has is the better one."""
_RUNS, _LONG_SECONDS = 5, 1.0

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
        seconds = _shortest_runs(
            {"cpu": start_session(for_cpu, settings), "openvino": other}, inputs
        )
    except DechaffError as error:
        return RuntimeChoice("cpu", f"runs in ONNX Runtime: {error}")
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
    figures = ", ".join(f"{RUNTIMES[t]} takes {1e3 * s:.1f} ms" for t, s in seconds.items())
    target = "openvino" if seconds["openvino"] < _LEAST_GAIN * seconds["cpu"] else "cpu"
    reason = f"runs in {RUNTIMES[target]}: measured on {shapes}, {figures}"
    return RuntimeChoice(target, reason)


def _shortest_runs(
    sessions: Mapping[str, RunningModel], inputs: Mapping[str, Array]
) -> dict[str, float]:
    """The shortest of a few runs of each, after one that does not count."""
    for session in sessions.values():
        session.run(inputs)
    best = dict.fromkeys(sessions, float("inf"))
    for _ in range(_RUNS):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(inputs)
            best[name] = min(best[name], time.perf_counter() - started)
        if sum(best.values()) > _LONG_SECONDS:
            break
    return best
