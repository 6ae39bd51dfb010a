"""The graph, the dialect, symbolic shapes, cost, text form and checks. Imports nothing of ours."""

from . import (  # noqa: F401  (declares the dialect's operators)
    activation_ops,
    attention_ops,
    blockwise_attention_ops,
    blockwise_function_ops,
    blockwise_ops,
    blockwise_weight_ops,
    exit_ops,
    normalization_ops,
    packing_ops,
    quantization_ops,
    sparse_attention_ops,
)
from .cache_folder import cache_folder
from .cost import Cost, graph_cost, node_cost, num_parameters
from .dialect import (
    DOMAIN,
    DialectOp,
    attach_functions,
    declaration_of,
    dialect_op,
    dialect_ops,
    register,
)
from .errors import (
    CrashedError,
    DechaffError,
    ExitCode,
    InputRejectedError,
    MissingPackageError,
    ModelRejectedError,
    RequiredPassError,
    UsageError,
    VerificationFailedError,
)
from .mapped_weights import unload_mapped
from .module import (
    WORKING_OPSET,
    CallingConvention,
    Module,
    SymbolRange,
    ValidPositions,
    constant_value,
    static_dim,
)
from .provenance import MODULE_PATH_KEY, RULE_KEY, inherit, module_path, origins, stamp_origins
from .shape_data import ShapeData, SizeVector
from .shapes import infer_node, infer_shapes
from .symbols import Dim, shape_expressions, symbol, to_dim, to_expression, to_shape
from .text import (
    attribute_text,
    canonical_lines,
    dtype_name,
    graph_lines,
    node_text,
    parse,
    structural_diff,
    to_text,
    value_type_text,
)
from .verifier import find_breaches, verify
from .vocabulary import Vocabulary

__all__ = [
    "DOMAIN",
    "MODULE_PATH_KEY",
    "RULE_KEY",
    "WORKING_OPSET",
    "CallingConvention",
    "Cost",
    "CrashedError",
    "DechaffError",
    "DialectOp",
    "Dim",
    "ExitCode",
    "InputRejectedError",
    "MissingPackageError",
    "ModelRejectedError",
    "Module",
    "RequiredPassError",
    "ShapeData",
    "SizeVector",
    "SymbolRange",
    "UsageError",
    "ValidPositions",
    "VerificationFailedError",
    "Vocabulary",
    "attach_functions",
    "attribute_text",
    "cache_folder",
    "canonical_lines",
    "constant_value",
    "declaration_of",
    "dialect_op",
    "dialect_ops",
    "dtype_name",
    "find_breaches",
    "graph_cost",
    "graph_lines",
    "infer_node",
    "infer_shapes",
    "inherit",
    "module_path",
    "node_cost",
    "node_text",
    "num_parameters",
    "origins",
    "parse",
    "register",
    "shape_expressions",
    "stamp_origins",
    "static_dim",
    "structural_diff",
    "symbol",
    "to_dim",
    "to_expression",
    "to_shape",
    "to_text",
    "unload_mapped",
    "value_type_text",
    "verify",
]
