"""Comparisons that came out right, kept by the content of both models and of the inputs."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from dechaff.backends import SessionSettings, machine_name
from dechaff.ir import Module, attach_functions
from dechaff.passes import Numerics

from .arrays import Array
from .cache import find_entry, keep_entry
from .comparison import TOLERANCES
from .compilation import runnable
from .input_generation import InputCase
from .reference import Reference
from .verification import Verification, earlier_verification, verify_result
from .versions import package_versions

if TYPE_CHECKING:
    from dechaff.backends.tvm.compiled_model import CompiledModel

_OWN_DIGEST_BYTES = 1024
"""Weights of at least this size are digested by themselves, each once."""


class VerificationCache:
    """Results of earlier comparisons; only agreement is kept, a failure is looked at anew."""

    def __init__(self, *, use: bool) -> None:
        """Open the cache of this user; without ``use`` nothing is read or kept."""
        self._use = use
        self._known: dict[int, tuple[ir.TensorProtocol, Future[str]]] = {}

    def prepare(self, module: Module) -> None:
        """Digest a module's weights in the background, while the passes run."""
        if not self._use:
            return
        pending: list[tuple[Array, Future[str]]] = []
        for tensor in _weights(module).values():
            if not isinstance(tensor, ir.LazyTensor):
                pending.append((tensor.numpy(), self._promise(tensor)))

        def work() -> None:
            for array, digest in pending:
                try:
                    digest.set_result(_of_array(array))
                except Exception as error:  # who asks for the digest gets it
                    digest.set_exception(error)

        try:
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError as error:
            raise MemoryError("no memory for a thread") from error

    def key(
        self,
        first: Module,
        second: Module,
        cases: Sequence[InputCase],
        settings: SessionSettings,
        **further: Any,
    ) -> dict[str, Any] | None:
        """All that the comparison of two modules depends on; None if there is no cache."""
        if not self._use:
            return None
        return {
            "verified": [self._of_module(module) for module in (first, second)],
            "inputs": [[case.name, _of_arrays(case.inputs)] for case in cases],
            "tolerances": str(TOLERANCES),
            "versions": package_versions() | {"openvino": _openvino_version()},
            "machine": machine_name(),
            "session": str(settings),
            **further,
        }

    def find(self, key: dict[str, Any] | None) -> dict[str, Any] | None:
        """The result that was kept under a key, or None."""
        result = None if key is None else find_entry(key)
        return result if isinstance(result, dict) else None

    def keep(self, key: dict[str, Any] | None, result: dict[str, Any]) -> None:
        """Keep a result."""
        if key is not None:
            keep_entry(key, result)

    def _of_module(self, module: Module) -> str:
        """Digest of graph, functions and weights."""
        copy = module.clone()
        attach_functions(copy)
        weights = _weights(copy)
        digests = self._digests(weights)
        found = hashlib.sha256(repr(module.valid_positions).encode())
        for name in sorted(weights):
            found.update(f"{name} {digests[name]}".encode())
            copy.graph.initializers.pop(name)
        found.update(ir.to_proto(copy.model).SerializeToString(deterministic=True))
        return found.hexdigest()

    def _promise(self, tensor: ir.TensorProtocol) -> Future[str]:
        digest: Future[str] = Future()
        self._known[id(tensor)] = tensor, digest  # kept, that no other tensor gets its id
        return digest

    def _digests(self, weights: dict[str, ir.TensorProtocol]) -> dict[str, str]:
        """Digest by name; threads share the work, since hashing leaves Python's lock."""
        try:
            with ThreadPoolExecutor() as threads:
                found = threads.map(self._digest, weights.values())
                return dict(zip(weights, found, strict=True))
        except RuntimeError as error:
            raise MemoryError("no memory for a thread") from error

    def _digest(self, tensor: ir.TensorProtocol) -> str:
        """Weights are shared by the graphs before and after the passes: one digest does."""
        if id(tensor) not in self._known:
            self._promise(tensor).set_result(_of_array(tensor.numpy()))
        return self._known[id(tensor)][1].result()


def verify_once(
    cache: VerificationCache,
    reference: Reference,
    optimized: Module,
    numerics: Numerics,
    mode: str,
    before_lowering: Module,
    compiled: CompiledModel | None = None,
) -> Verification:
    """What :func:`verify_result` gives, or gave an earlier run for the same models and inputs.

    Generated code is compared anew each time, if this machine can run it.
    """
    code = runnable(compiled)
    if code is not None:
        return verify_result(reference, optimized, numerics, mode, before_lowering, code)
    settings = reference.settings or SessionSettings()
    cases = reference.given
    key = cache.key(reference.module, optimized, cases, settings, numerics=numerics.value)
    earlier = cache.find(key)
    if earlier is not None:
        return earlier_verification(earlier, mode)
    found = verify_result(reference, optimized, numerics, mode, before_lowering)
    if found.verified:
        cache.keep(key, dataclasses.asdict(found))
    return found


def _openvino_version() -> str | None:
    """Of the runtime that a model lowered for OpenVINO runs in; None where there is none."""
    try:
        return importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:
        return None


def _weights(module: Module) -> dict[str, ir.TensorProtocol]:
    """The larger weights of the main graph, by name."""
    tensors = {name: value.const_value for name, value in module.graph.initializers.items()}
    return {
        name: tensor
        for name, tensor in tensors.items()
        if tensor is not None
        and tensor.nbytes >= _OWN_DIGEST_BYTES
        and tensor.dtype is not ir.DataType.STRING
    }


def _of_array(array: Array) -> str:
    found = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    if array.size:
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _of_arrays(arrays: dict[str, Array]) -> dict[str, str]:
    return {
        name: _of_array(array)
        if array.dtype.kind not in "OSU"
        else hashlib.sha256(repr(array.tolist()).encode()).hexdigest()
        for name, array in sorted(arrays.items())
    }
