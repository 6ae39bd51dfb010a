"""Which runtime runs a module: the one it was lowered for, where that is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from dechaff.ir import Module

from .onnxruntime import INDEPENDENT, ROWS_KEY, RUNTIME_KEY, Session, SessionSettings
from .openvino import OpenVinoSession, SharedRows, has_openvino
from .row_groups import RowGroups


class RunningModel(Protocol):
    """What runs a module: :class:`Session` or :class:`OpenVinoSession`."""

    input_names: list[str]
    output_names: list[str]

    def run(
        self, inputs: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Run the model on an array per input; an array per output wanted."""
        ...


def start_session(
    module: Module, settings: SessionSettings | None = None, *, on_trial: bool = False
) -> RunningModel:
    """A session over a module as it is served.

    A module that was lowered for OpenVINO consists of standard operators, so that ONNX Runtime runs
    it where OpenVINO is not installed.

    Args:
        module: a lowered module.
        settings: threads, affinity, memory and requests; the defaults if None.
        on_trial: whether ONNX Runtime stops a run that takes far too long for the model's size.

    Raises:
        RuntimeFailedError: the runtime rejects the model.
        UsageError: the settings are not for this runtime.
    """
    is_independent = module.model.metadata_props.get(ROWS_KEY) == INDEPENDENT
    if runs_in_openvino(module) and has_openvino():
        if is_independent and (settings or SessionSettings()).requests != 1:
            return SharedRows(module, settings=settings)
        return OpenVinoSession(module, settings=settings)
    session = Session(module, settings=settings, on_trial=on_trial)
    if not is_independent:
        return session
    return RowGroups(session, (settings or SessionSettings()).num_threads)


def runs_in_openvino(module: Module) -> bool:
    """Whether a module was lowered for OpenVINO."""
    return module.model.metadata_props.get(RUNTIME_KEY) == "openvino"
