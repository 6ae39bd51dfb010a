"""Arguments of a torch module: bound to its signature, taken apart into tensors, generated."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree

from dechaff.ir import InputRejectedError, UsageError

_EXAMPLE_BATCH = 3
_EXAMPLE_SEQUENCE = 7
_EXAMPLE_TARGET_SEQUENCE = 5


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Positional and keyword arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def leaves(self) -> list[Any]:
        """What nested arguments consist of, in torch's order."""
        return pytree.tree_leaves((self.args, self.kwargs))

    def with_leaves(self, leaves: Sequence[Any]) -> Arguments:
        """The same call with other leaves."""
        _, spec = pytree.tree_flatten((self.args, self.kwargs))
        args, kwargs = pytree.tree_unflatten(list(leaves), spec)
        return Arguments(args, kwargs)


def parse_example_inputs(example_inputs: Any) -> Arguments:
    """Accept a mapping of keyword arguments, a tuple of arguments, both, or a single tensor.

    Raises:
        UsageError: none of these.
    """
    if isinstance(example_inputs, Mapping):
        return _as_tensors(Arguments((), dict(example_inputs)))
    if isinstance(example_inputs, torch.Tensor | np.ndarray):
        return _as_tensors(Arguments((example_inputs,), {}))
    if not isinstance(example_inputs, tuple | list):
        raise UsageError(
            "example_inputs: expected a dict of keyword arguments, a tuple of arguments or "
            f"(args, kwargs), got {type(example_inputs).__name__}"
        )
    if len(example_inputs) == 2 and isinstance(example_inputs[0], tuple | list):
        args, kwargs = example_inputs
        if isinstance(kwargs, Mapping):
            return _as_tensors(Arguments(tuple(args), dict(kwargs)))
    return _as_tensors(Arguments(tuple(example_inputs), {}))


def _as_tensors(arguments: Arguments) -> Arguments:
    """Tensors in place of arrays, and no tensor twice: torch would trace the two as one."""
    leaves: list[Any] = []
    seen: set[int] = set()
    for leaf in arguments.leaves():
        tensor = torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf
        if isinstance(tensor, torch.Tensor):
            tensor = tensor.clone() if id(tensor) in seen else tensor
            seen.add(id(tensor))
        leaves.append(tensor)
    return arguments.with_leaves(leaves)


def generate_example_inputs(module: torch.nn.Module) -> Arguments:
    """Ids and a mask for a Hugging Face model, which says in its configuration what it takes.

    Raises:
        UsageError: the module does not say what its inputs are.
    """
    config = getattr(module, "config", None)
    vocabulary = getattr(config, "vocab_size", None)
    takes_ids = getattr(module, "main_input_name", None) == "input_ids"
    if not isinstance(vocabulary, int) or not takes_ids:
        raise UsageError(
            f"{type(module).__name__}: nothing says what its inputs look like; pass "
            "example_inputs=, such as {'input_ids': ids, 'attention_mask': mask}"
        )
    parameters = inspect.signature(module.forward).parameters
    kwargs = {"input_ids": _ids(vocabulary, _EXAMPLE_SEQUENCE)}
    if "attention_mask" in parameters:
        kwargs["attention_mask"] = torch.ones(_EXAMPLE_BATCH, _EXAMPLE_SEQUENCE, dtype=torch.int64)
    if getattr(config, "is_encoder_decoder", False):
        kwargs["decoder_input_ids"] = _ids(vocabulary, _EXAMPLE_TARGET_SEQUENCE)
    options = {"use_cache": False} if "use_cache" in parameters else {}
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    return Arguments((), {name: ids.to(device) for name, ids in kwargs.items()} | options)


def _ids(vocabulary: int, length: int) -> torch.Tensor:
    ids = torch.arange(_EXAMPLE_BATCH * length, dtype=torch.int64) % vocabulary
    return ids.reshape(_EXAMPLE_BATCH, length)


def bind(signature: inspect.Signature, arguments: Arguments) -> dict[str, Any]:
    """Values by parameter name; those passed through ``**kwargs`` under their own names.

    Raises:
        InputRejectedError: the call does not fit the signature.
    """
    try:
        bound = signature.bind(*arguments.args, **arguments.kwargs)
    except TypeError as error:
        raise InputRejectedError(f"the call does not fit the model: {error}") from None
    values: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            values.update(value)
        else:
            values[name] = value
    return values


def signature_of(program: torch.export.ExportedProgram) -> inspect.Signature:
    """The signature of a program whose module is not at hand: the arguments it was captured with.

    A captured positional argument may also be given by name.
    """
    recorded = program.module_call_graph[0].signature
    names = recorded.forward_arg_names if recorded is not None else None
    num_positional = program.call_spec.in_spec.children()[0].num_children
    if names is None:
        keywords = program.call_spec.in_spec.children()[1].context or []
        names = [f"argument_{index}" for index in range(num_positional)] + list(keywords)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind, default=None) for name in names])
