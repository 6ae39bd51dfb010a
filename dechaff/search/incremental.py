"""Runs a variant of a module from where it parts from the module on: the rest is remembered."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from dechaff.arrays import Array, Arrays
from dechaff.backends import Session, SessionSettings
from dechaff.ir import Module, constant_value
from dechaff.passes.matching import values_read

from .value_keys import Key, ValueKeys

_DEFAULT_BYTES = 1 << 30


@dataclasses.dataclass
class Base:
    """A module, and what is known of it.

    Attributes:
        module: the module that variants are made of.
        keys: the key of each of its values.
    """

    module: Module
    keys: dict[ir.Value, Key]


class IncrementalRunner:
    """Runs variants of a base module on the same inputs again and again.

    Values of the base where variants part from it, such as the inputs of layers, are kept, within
    a limit on memory; a variant then runs from these values on. What a variant computes anew is
    found by comparing keys of values, whatever pass has made it.

    Attributes:
        inputs: the batches of graph inputs, by name.
    """

    def __init__(
        self,
        inputs: Sequence[Arrays],
        session: SessionSettings | None = None,
        max_bytes: int = _DEFAULT_BYTES,
    ) -> None:
        self.inputs = inputs
        self._session = session
        self._max_bytes = max_bytes
        self._keys = ValueKeys()
        self._known: dict[Key, list[Array]] = {}
        self._base: Base | None = None
        self._frontier_names: dict[str, None] = {}

    def rebase(self, module: Module) -> None:
        """Let variants be compared with this module from now on."""
        self._keys.register(module)
        self._base = Base(module, self._keys.of(module))
        current = set(self._base.keys.values())
        self._known = {key: arrays for key, arrays in self._known.items() if key in current}
        self._remember(self._frontier_names)

    def prepare(self, variants: Iterable[Module]) -> None:
        """Keep the values of the base from which these variants go on."""
        assert self._base is not None  # rebase() comes first
        known = set(self._base.keys.values())
        for variant in variants:
            keys = self._keys.of(variant)
            names = (value.name or "" for value in _frontier(variant, keys, known))
            self._frontier_names.update(dict.fromkeys(names))
        self._remember(self._frontier_names)

    def run(self, variant: Module) -> Iterator[Arrays]:
        """The outputs of a variant on each batch, computed as they are asked for."""
        for _, outputs in self.run_rows(variant, range(len(self.inputs))):
            yield outputs

    def run_rows(self, variant: Module, order: Sequence[int]) -> Iterator[tuple[int, Arrays]]:
        """The outputs of a variant on the batches in this order, with the batch's number."""
        tail, given = self._tail(variant)
        session = Session(tail, settings=self._session)
        needed = [value.name or "" for value in tail.graph.inputs]
        for index in order:
            feeds = self._given(index, needed, given)
            yield index, session.run(feeds)

    def share_computed(self, variant: Module) -> float:
        """Which share of a variant's operators a run computes anew."""
        tail, _ = self._tail(variant)
        return len(tail.graph) / max(1, len(variant.graph))

    def _remember(self, names: Mapping[str, None]) -> None:
        """Compute and keep values of the base that are not known yet, as memory allows."""
        assert self._base is not None  # rebase() comes first
        wanted = {
            key: value
            for value, key in self._base.keys.items()
            if value.name in names and key not in self._known and value.producer() is not None
        }
        if not wanted:
            return
        probe = self._base.module.clone()
        values = {value.name: value for node in probe.graph for value in node.outputs}
        found = [values[value.name] for value in wanted.values() if value.name in values]
        probe.graph.outputs.clear()
        probe.graph.outputs.extend(found)
        tail, given = self._tail(probe)
        session = Session(tail, settings=self._session)
        needed = [value.name or "" for value in tail.graph.inputs]
        gathered: dict[Key, list[Array]] = {key: [] for key in wanted}
        key_of = {value.name: key for key, value in wanted.items()}
        for index in range(len(self.inputs)):
            feeds = self._given(index, needed, given)
            for name, array in session.run(feeds).items():
                gathered[key_of[name]].append(array)
        for key in sorted(gathered, key=lambda key: -_bytes(gathered[key])):
            self._keep(key, gathered[key])

    def _given(self, index: int, needed: Sequence[str], known: Mapping[str, Key]) -> Arrays:
        """What a tail is fed with on a batch: known values, and those inputs that it reads."""
        inputs = self.inputs[index]
        feeds = {name: inputs[name] for name in needed if name in inputs and name not in known}
        return feeds | {name: self._known[key][index] for name, key in known.items()}

    def _keep(self, key: Key, arrays: list[Array]) -> None:
        total = sum(_bytes(known) for known in self._known.values())
        if len(arrays) == len(self.inputs) and total + _bytes(arrays) <= self._max_bytes:
            self._known[key] = arrays

    def _tail(self, variant: Module) -> tuple[Module, dict[str, Key]]:
        """The part of a variant that is not known, and the keys of the inputs it then has."""
        tail = variant.clone()
        keys = self._keys.of(tail)
        frontier = _frontier(tail, keys, self._known.keys())
        given: dict[str, Key] = {}
        for value in frontier:
            name = value.name or ""
            given[name] = keys[value]
            entry = ir.Value(name=name, type=value.type, shape=value.shape)
            value.replace_all_uses_with(entry, replace_graph_outputs=True)
            value.name = f"{name}_computed"
            tail.graph.inputs.append(entry)
        common_passes.RemoveUnusedNodesPass()(tail.model)
        used = {read for node in tail.graph for read in values_read(node)}
        outputs = set(tail.graph.outputs)
        for value in list(tail.graph.inputs):
            is_default = value.name in tail.graph.initializers
            if value not in used and value not in outputs and not is_default:
                tail.graph.inputs.remove(value)
        return tail, given


def _frontier(
    module: Module, keys: Mapping[ir.Value, Key], known: Container[Key]
) -> list[ir.Value]:
    """Values whose key is known, read by nodes that have to be computed, in a fixed order."""
    found: dict[ir.Value, None] = {}
    pending = list(module.graph.outputs)
    seen: set[ir.Value] = set()
    while pending:
        value = pending.pop()
        if value in seen or constant_value(value) is not None:
            continue
        seen.add(value)
        producer = value.producer()
        if producer is None or producer.graph is not module.graph:
            continue
        if keys[value] in known:
            found[value] = None
            continue
        pending += values_read(producer)
    return list(found)


def _bytes(arrays: Sequence[Array]) -> int:
    return sum(array.nbytes for array in arrays)
