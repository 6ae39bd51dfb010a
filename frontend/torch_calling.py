"""How the original torch model is called: from its arguments to graph inputs, and back."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch
import torch.utils._pytree as pytree

from dechaff.ir import InputRejectedError, dtype_name

from .torch_arguments import Arguments, bind

_VIEWED_AS = {
    torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.uint8, ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: (torch.uint8, ml_dtypes.float8_e5m2),
}
"""Types numpy lacks: the integers of the same width that carry them, and their name in numpy."""


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's numbers, without a copy where they are in main memory already."""
    tensor = tensor.detach().cpu()
    if tensor.dtype in _VIEWED_AS:
        carrier, dtype = _VIEWED_AS[tensor.dtype]
        return tensor.contiguous().view(carrier).numpy().view(dtype)
    return tensor.resolve_conj().resolve_neg().numpy()


def to_torch(array: np.ndarray) -> torch.Tensor:
    """The array's numbers as a tensor, without a copy where they may be written to."""
    array = np.asarray(array)
    for dtype, (carrier, numpy_dtype) in _VIEWED_AS.items():
        if array.dtype == numpy_dtype:
            raw = np.ascontiguousarray(array).view(np.int16 if carrier is torch.int16 else np.uint8)
            return torch.from_numpy(raw.copy()).view(dtype)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


@dataclasses.dataclass(frozen=True)
class GraphInput:
    """A tensor argument: the graph input it feeds, and what the graph expects there."""

    name: str
    dtype: ir.DataType
    sizes: tuple[int | str, ...]

    def accept(self, value: Any, where: str) -> np.ndarray:
        """The value as an array.

        Raises:
            InputRejectedError: it is no tensor, or its dtype, rank or a fixed size is another.
        """
        expected = f"{dtype_name(self.dtype)}[{','.join(map(str, self.sizes))}]"
        if isinstance(value, torch.Tensor):
            array = to_numpy(value)
        elif isinstance(value, np.ndarray):
            array = value
        else:
            raise InputRejectedError(
                f"{where}: expected a torch tensor or a numpy array {expected}, "
                f"got {type(value).__name__}"
            )
        try:
            dtype = ir.DataType.from_numpy(array.dtype)
        except TypeError:
            dtype = None
        got = f"{dtype_name(dtype) if dtype else array.dtype}[{','.join(map(str, array.shape))}]"
        sizes_fit = len(array.shape) == len(self.sizes) and all(
            isinstance(size, str) or size == given
            for size, given in zip(self.sizes, array.shape, strict=True)
        )
        if dtype != self.dtype or not sizes_fit:
            raise InputRejectedError(f"{where}: expected {expected}, got {got}")
        return array


@dataclasses.dataclass(frozen=True)
class Fixed:
    """An argument or result that was a Python value, not a tensor, when the model was captured."""

    value: Any


@dataclasses.dataclass(frozen=True)
class CapturedArgument:
    """One argument of the original signature: its nesting, and what each leaf became."""

    structure: pytree.TreeSpec
    leaves: tuple[GraphInput | Fixed, ...]

    @property
    def is_optional(self) -> bool:
        """Whether it carries no tensor, so that the graph does not need it."""
        return all(isinstance(leaf, Fixed) for leaf in self.leaves)


@dataclasses.dataclass(frozen=True)
class TorchCallingConvention:
    """Calls a graph the way the torch module was called.

    Attributes:
        signature: of the original ``forward``.
        arguments: what was captured, by argument name.
        result_structure: the nesting of the original's result.
        results: for each leaf of the result, the graph output that gives it, or its fixed value.
        integer_results: results that were Python integers in the original.
    """

    signature: inspect.Signature
    arguments: Mapping[str, CapturedArgument]
    result_structure: pytree.TreeSpec
    results: Sequence[str | Fixed]
    integer_results: frozenset[str] = frozenset()

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, np.ndarray]:
        """Map call arguments, torch or numpy, to arrays by graph input name.

        Raises:
            InputRejectedError: an argument is missing, was not captured, has another structure,
                rank, dtype or fixed size, or differs from the fixed value it was captured with.
        """
        given = bind(self.signature, Arguments(args, kwargs))
        self._check_known(given)
        feeds: dict[str, np.ndarray] = {}
        for name, captured in self.arguments.items():
            if given.get(name) is None and captured.is_optional:
                continue
            if name not in given:
                raise InputRejectedError(f"argument {name!r} is missing; {self._captured_names()}")
            self._flatten_argument(name, given[name], captured, feeds)
        return feeds

    def _check_known(self, given: Mapping[str, Any]) -> None:
        for name, value in given.items():
            if name in self.arguments or value is None:
                continue
            parameter = self.signature.parameters.get(name)
            is_default = parameter is not None and value is parameter.default
            if not is_default:
                raise InputRejectedError(
                    f"argument {name!r} is not part of the captured model; "
                    f"{self._captured_names()}: capture it with example_inputs that hold it"
                )

    def _captured_names(self) -> str:
        names = [name for name, argument in self.arguments.items() if not argument.is_optional]
        return f"captured with: {', '.join(names)}"

    def _flatten_argument(
        self, name: str, value: Any, captured: CapturedArgument, feeds: dict[str, np.ndarray]
    ) -> None:
        leaves, structure = [value], captured.structure
        if not captured.structure.is_leaf():
            leaves, structure = pytree.tree_flatten(value)
        if structure != captured.structure:
            raise InputRejectedError(
                f"argument {name!r}: expected the structure {captured.structure}, got {structure}"
            )
        for leaf, expected in zip(leaves, captured.leaves, strict=True):
            if isinstance(expected, GraphInput):
                feeds[expected.name] = expected.accept(leaf, f"argument {name!r}")
            elif isinstance(leaf, torch.Tensor | np.ndarray) or leaf != expected.value:
                raise InputRejectedError(
                    f"argument {name!r}: it was fixed at {expected.value!r} when the model was "
                    f"captured, got {leaf!r}"
                )

    def unflatten(self, outputs: Mapping[str, np.ndarray | torch.Tensor]) -> Any:
        """Rebuild the original's result from arrays by graph output name."""
        leaves = [
            result.value if isinstance(result, Fixed) else self._result(outputs[result], result)
            for result in self.results
        ]
        return pytree.tree_unflatten(leaves, self.result_structure)

    def _result(self, array: np.ndarray | torch.Tensor, name: str) -> Any:
        if isinstance(array, torch.Tensor):  # it was computed on the GPU, and stays there
            return array
        return int(array) if name in self.integer_results else to_torch(array)
