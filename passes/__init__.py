"""Rewrites of the graph: one rewrite, one file; ``pipelines`` alone knows their order."""

from .approximation import Approximation, Calibration, Edit
from .pass_base import NoOptions, Numerics, Pass
from .pass_context import ActivationWalk, CalibrationData, PassContext
from .pass_list import PassList, parse_pass_list, pass_by_name, passes_to_add_to
from .pass_manager import (
    GraphSize,
    PassFailedError,
    PassObserver,
    PassRecord,
    apply_pass,
    measure,
    run_passes,
    tidy,
)
from .pipelines import PASSES, PIPELINES
from .rewrite_records import Miss, Rewrite
from .rewriter import GraphBuilder, Rewriter

__all__ = [
    "PASSES",
    "PIPELINES",
    "ActivationWalk",
    "Approximation",
    "Calibration",
    "CalibrationData",
    "Edit",
    "GraphBuilder",
    "GraphSize",
    "Miss",
    "NoOptions",
    "Numerics",
    "Pass",
    "PassContext",
    "PassFailedError",
    "PassList",
    "PassObserver",
    "PassRecord",
    "Rewrite",
    "Rewriter",
    "apply_pass",
    "measure",
    "parse_pass_list",
    "pass_by_name",
    "passes_to_add_to",
    "run_passes",
    "tidy",
]
