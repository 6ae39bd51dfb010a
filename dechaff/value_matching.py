"""Which value of one graph is which value of another: by name, by provenance, by computation."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterator, Mapping

import onnx_ir as ir

from dechaff.ir import Module, constant_value, node_text, origins

_HASHED_BYTES = 1 << 20
"""Constants above this size are told apart by dtype and shape alone."""

Key = Hashable


def match_values(first: Module, second: Module, inputs: Mapping[str, str]) -> dict[str, str]:
    """Names of the second graph's values by those of the first, in the first's order.

    Values match by name; or since the node in the second graph records that it stands for that in
    the first; or since the same operation makes both from operands that match.

    Args:
        first: a module.
        second: another one.
        inputs: the second's graph inputs by the first's.
    """
    matches = {**_by_provenance(first, second), **_by_name(first, second)}
    matches = {**_by_computation(first, second, inputs, matches), **matches}
    order = [value.name or "" for value in _values(first)]
    return {name: matches[name] for name in order if name in matches}


def _values(module: Module) -> Iterator[ir.Value]:
    for node in module.graph:
        yield from (value for value in node.outputs if value.name)


def _by_name(first: Module, second: Module) -> dict[str, str]:
    names = {value.name or "" for value in _values(second)}
    return {name: name for value in _values(first) if (name := value.name or "") in names}


def _by_provenance(first: Module, second: Module) -> dict[str, str]:
    """The last node that stands for a group of nodes gives what the last of the group gave."""
    results = {node.name: node.outputs[0].name for node in first.graph if node.outputs}
    matches: dict[str, str] = {}
    for node in second.graph:
        sources = origins(node)
        name = results.get(sources[-1]) if sources else None
        if name and len(node.outputs) == 1 and node.outputs[0].name:
            matches[name] = node.outputs[0].name
    return matches


def _by_computation(
    first: Module, second: Module, inputs: Mapping[str, str], matches: Mapping[str, str]
) -> dict[str, str]:
    """Values that the same operation makes from operands that match."""
    known_first: dict[ir.Value, Key] = {v: v.name for v in first.graph.inputs}
    partner = {theirs: ours for ours, theirs in [*inputs.items(), *matches.items()]}
    known_second: dict[ir.Value, Key] = {
        value: partner.get(value.name or "", ("second", value.name))
        for value in second.graph.inputs
    }
    keys_first = _keys(first, known_first, {name: name for name in matches})
    keys_second = _keys(second, known_second, partner)
    places = {key: name for name, key in keys_second.items()}
    return {name: places[key] for name, key in keys_first.items() if key in places}


def _keys(module: Module, known: dict[ir.Value, Key], labels: Mapping[str, str]) -> dict[str, Key]:
    """What makes each value; a value that is matched already is its label."""
    keys: dict[str, Key] = {}
    for node in module.graph:
        made = (_operation(node), *(_operand_key(value, known) for value in node.inputs))
        for position, value in enumerate(node.outputs):
            name = value.name or ""
            key = hash((made, position))
            keys[name] = key
            known[value] = labels.get(name, key)
    return keys


def _operation(node: ir.Node) -> str:
    """Operator and attributes in text form, without the names of values."""
    text = node_text(node, types=False).partition(" = ")[2]
    return text.rpartition(" (")[0]


def _operand_key(value: ir.Value | None, known: Mapping[ir.Value, Key]) -> Key:
    if value is None:
        return None
    tensor = constant_value(value)
    if tensor is not None:
        content = zlib.crc32(tensor.tobytes()) if tensor.nbytes <= _HASHED_BYTES else 0
        return (str(tensor.dtype), str(tensor.shape), content)
    return known.get(value, ("unknown", value.name))
