from __future__ import annotations

import subprocess
import sys

import pytest

import dechaff


def test_importing_dechaff_loads_neither_torch_nor_a_runtime() -> None:
    code = (
        "import sys, dechaff, dechaff.command_line\n"
        "heavy = {'torch', 'tvm', 'onnxruntime', 'onnx', 'sympy', 'rich'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_public_name_resolves() -> None:
    assert all(getattr(dechaff, name) is not None for name in dechaff.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'optimise'"):
        dechaff.optimise  # noqa: B018


def test_optimizing_an_onnx_model_does_not_load_torch() -> None:
    code = (
        "import sys, dechaff\n"
        "from dechaff.ir import parse\n"
        "from tests.dechaff.examples import LINEAR\n"
        "dechaff.optimize(parse(LINEAR).model, progress=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
