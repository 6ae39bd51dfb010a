"""Which torch module a node came from, as the exporters wrote it down."""

from __future__ import annotations

import ast

import onnx_ir as ir

from dechaff.ir import MODULE_PATH_KEY

_NAME_SCOPES = "pkg.torch.onnx.name_scopes"
_HOOK_SCOPE = "_empty_nn_module_stack_from_metadata_hook"


def record_module_paths(model: ir.Model) -> None:
    """Write :data:`MODULE_PATH_KEY` on the nodes whose exporter said where they came from.

    ``torch.onnx.export(dynamo=True)`` keeps the scopes of a node in its metadata; the older
    exporter spells them in the node's name, ``/encoder/layer.3/attention/self/MatMul``.
    """
    from_torch = model.producer_name == "pytorch"
    for node in model.graph.all_nodes():
        path = _path_from_scopes(node.metadata_props.get(_NAME_SCOPES))
        if path is None and from_torch:
            path = _path_from_name(node.name)
        if path:
            node.metadata_props[MODULE_PATH_KEY] = path


def _path_from_scopes(recorded: str | None) -> str | None:
    """The innermost module of ``['', 'encoder', 'encoder.layer.3', 'linear_7']``."""
    if not recorded:
        return None
    try:
        scopes = ast.literal_eval(recorded)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None  # a file may say anything there
    if not isinstance(scopes, list) or len(scopes) < 2 or not isinstance(scopes[-2], str):
        return None
    return "" if scopes[-2] == _HOOK_SCOPE else scopes[-2]


def _path_from_name(name: str | None) -> str | None:
    if not name or not name.startswith("/"):
        return None
    return ".".join(part for part in name.split("/")[1:-1] if part)
