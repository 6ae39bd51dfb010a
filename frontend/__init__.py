"""From torch models and ONNX files to the IR."""

from .exporter_metadata import record_module_paths
from .onnx_file import from_onnx, read_onnx
from .torch_export import from_torch

__all__ = ["from_onnx", "from_torch", "read_onnx", "record_module_paths"]
