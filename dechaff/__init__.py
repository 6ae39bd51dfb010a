"""dechaff: a compiler-style graph optimizer for Transformer models.

``dechaff.optimize(model)`` takes a PyTorch module or an ONNX model and gives an
:class:`OptimizedModel` that is called exactly like the original. Names are loaded when first used:
``import dechaff`` itself loads neither torch nor a runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dechaff.backends import SessionSettings
    from dechaff.ir import (
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

    from .bisection import Bisection, bisect
    from .exit_calibration import ExitCalibration, calibrate_exits
    from .exit_heads import FittedHeads, fit_exit_heads
    from .model_comparison import ModelComparison
    from .model_verification import verify
    from .optimization import optimize
    from .optimized_model import OptimizedModel, load
    from .report import Report
    from .tuning import TuningResult, tune

__version__ = "0.1.0"

_HOMES = {
    "optimize": "dechaff.optimization",
    "load": "dechaff.optimized_model",
    "bisect": "dechaff.bisection",
    "calibrate_exits": "dechaff.exit_calibration",
    "ExitCalibration": "dechaff.exit_calibration",
    "fit_exit_heads": "dechaff.exit_heads",
    "FittedHeads": "dechaff.exit_heads",
    "Bisection": "dechaff.bisection",
    "verify": "dechaff.model_verification",
    "ModelComparison": "dechaff.model_comparison",
    "OptimizedModel": "dechaff.optimized_model",
    "Report": "dechaff.report",
    "TuningResult": "dechaff.tuning",
    "tune": "dechaff.tuning",
    "CrashedError": "dechaff.ir",
    "SessionSettings": "dechaff.backends",
    "DechaffError": "dechaff.ir",
    "ExitCode": "dechaff.ir",
    "InputRejectedError": "dechaff.ir",
    "MissingPackageError": "dechaff.ir",
    "ModelRejectedError": "dechaff.ir",
    "RequiredPassError": "dechaff.ir",
    "UsageError": "dechaff.ir",
    "VerificationFailedError": "dechaff.ir",
}

__all__ = [
    "Bisection",
    "CrashedError",
    "DechaffError",
    "ExitCalibration",
    "ExitCode",
    "FittedHeads",
    "InputRejectedError",
    "MissingPackageError",
    "ModelComparison",
    "ModelRejectedError",
    "OptimizedModel",
    "Report",
    "RequiredPassError",
    "SessionSettings",
    "TuningResult",
    "UsageError",
    "VerificationFailedError",
    "__version__",
    "bisect",
    "calibrate_exits",
    "fit_exit_heads",
    "load",
    "optimize",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'dechaff' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
