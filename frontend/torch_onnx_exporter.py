"""torch's ONNX exporter on a captured program, its table of operators read once per process."""

from __future__ import annotations

import functools

from torch.export import ExportedProgram
from torch.onnx import ONNXProgram
from torch.onnx._internal.exporter import _core, _registration

from dechaff.ir import WORKING_OPSET


def export_to_onnx(program: ExportedProgram) -> ONNXProgram:
    """What ``torch.onnx.export(program, dynamo=True, optimize=False)`` gives at our opset.

    The public function parses the sources of some 500 operators at every call, for half a second.

    Raises:
        OnnxExporterError: an operator has no translation.
    """
    return _core.export(
        program,
        registry=operator_registry(),
        verbose=False,
        optimize=False,
        opset_version=WORKING_OPSET,
    )


@functools.cache
def operator_registry() -> _registration.ONNXRegistry:
    """The exporter's translations of torch's operators; not to be changed."""
    return _registration.ONNXRegistry.from_torchlib(opset_version=WORKING_OPSET)
