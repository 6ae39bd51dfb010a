"""The contestants of the quantization benchmark: 8-bit models of dechaff and of its peers."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import dechaff
from dechaff import SessionSettings

from .exports import quiet
from .inputs import Array, Inputs, make_inputs
from .openvino_requests import best_requests, join_rows
from .peers import DECHAFF, PEERS, Peer, Runner, Task, new_session

_CALIBRATION_BATCHES = 4
_CALIBRATION_SHAPE = (8, 64)
_IN_OPENVINO = "quantize-static{smooth=0.7,attention=true}"


def calibration_batches(task: Task) -> list[Inputs]:
    """Random sentences of ragged lengths, other ones than are timed."""
    batch, sequence = _CALIBRATION_SHAPE
    vocabulary = task.model.vocabulary
    return [
        make_inputs(batch, sequence - index, "uniform", vocabulary)
        for index in range(_CALIBRATION_BATCHES)
    ]


def _dechaff(passes: str, target: str = "cpu") -> Callable[[Task], Runner]:
    """Without verification: the benchmark compares the outputs itself."""

    def build(task: Task) -> Runner:
        optimized = dechaff.optimize(
            str(task.exports.plain(18)),
            passes=passes,
            target=target,
            verify="off",
            progress=False,
            session=SessionSettings(task.threads),
            calibration=calibration_batches(task),
        )
        return Runner(lambda: optimized.run(task.inputs), lambda result: list(result.values()))

    return build


def _onnxruntime_dynamic(task: Task) -> Runner:
    """The runtime's own dynamic quantization, of whichever dense graph is then faster."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    candidates: dict[str, Any] = {}
    for name, source in (("plain", task.exports.plain(18)), ("fused", task.exports.fused(18))):
        path = task.exports.folder / f"dynamic-{name}.onnx"
        with quiet():
            quantize_dynamic(
                source,
                path,
                per_channel=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        candidates[name] = new_session(path, task.threads)
    return _fastest_session(candidates, task)


def _fastest_session(sessions: dict[str, Any], task: Task) -> Runner:
    from .choice import fastest

    runs = {name: _run_of(session, task.inputs) for name, session in sessions.items()}
    name = fastest(runs)
    return Runner(runs[name], list, f"{name} graph")


def _run_of(session: Any, inputs: Inputs) -> Callable[[], Sequence[Array]]:
    return lambda: session.run(None, inputs)


def _nncf(task: Task) -> Runner:
    """Post-training quantization of NNCF for Transformers, run by OpenVINO."""
    import nncf
    import openvino

    path: pathlib.Path = task.exports.folder / "nncf.xml"
    with quiet():
        model = openvino.Core().read_model(task.exports.plain(23))
        quantized = nncf.quantize(
            model,
            nncf.Dataset(calibration_batches(task)),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=_CALIBRATION_BATCHES,
        )
        openvino.save_model(quantized, path, compress_to_fp16=False)
    hint, run = best_requests(path, task.inputs, task.threads, {})
    return Runner(run, join_rows, f"{hint.lower()} hint")


QUANTIZED_PEERS: dict[str, Peer] = {
    "torch": PEERS["torch"],
    "openvino": PEERS["openvino"],
    "ort18-fused": PEERS["ort18-fused"],
    "ort-dynamic": Peer("ONNX Runtime, dynamic quantization", _onnxruntime_dynamic),
    "nncf": Peer("OpenVINO, NNCF INT8", _nncf, package="nncf"),
    DECHAFF: Peer("dechaff, float32", _dechaff("default")),
    "dechaff-dynamic": Peer("dechaff, quantize-dynamic", _dechaff("default,quantize-dynamic")),
    "dechaff-per-tensor": Peer(
        "dechaff, quantize-dynamic{activations=tensor}",
        _dechaff("default,quantize-dynamic{activations=tensor}"),
    ),
    "dechaff-static": Peer("dechaff, quantize-static", _dechaff("default,quantize-static")),
    "dechaff-openvino": Peer(
        f"dechaff, {_IN_OPENVINO}, in OpenVINO",
        _dechaff(f"default,{_IN_OPENVINO}", "openvino"),
        package="openvino",
    ),
    "dechaff-weights": Peer(
        "dechaff, quantize-weights{bits=4}", _dechaff("default,quantize-weights{bits=4}")
    ),
}
"""By the name that ``--peers`` takes. ``torch`` is the reference of all outputs."""
