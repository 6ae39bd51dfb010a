"""From a module that the passes are done with to one that a runtime runs, for one target."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dechaff.backends import SessionSettings, lower
from dechaff.ir import Module, shape_expressions

from .arrays import Array
from .attention_choice import choose_attention
from .compilation import compile_for
from .input_generation import typical_case
from .nominal_sizes import evaluate, nominal_batch, nominal_sizes
from .runtime_choice import choose_runtime
from .settings import AUTO, Settings, is_compiled

if TYPE_CHECKING:
    from dechaff.backends.tvm.compiled_model import CompiledModel


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A module that runs.

    Attributes:
        module: the module.
        target: what it is lowered for, never ``auto``.
        notes: what was chosen on this machine, and why.
        compiled: the generated code, which then runs in place of the module.
    """

    module: Module
    target: str
    notes: tuple[str, ...] = ()
    compiled: CompiledModel | None = None


def lower_for_target(
    optimized: Module,
    original: Module,
    settings: Settings,
    example: Mapping[str, Array] | None,
    session: SessionSettings,
) -> Lowered:
    """Lower a module, with the attention kernel that this machine runs faster.

    Args:
        optimized: the module after all passes.
        original: the module before them; its inputs tell the sizes to time kernels at.
        settings: target, cache and tuning log. For ``openvino`` and ``portable`` nothing is
            measured; ``auto`` is whichever runtime takes less time on the example or on a typical
            batch; for the targets of TVM code is generated, and a portable module goes with it.
        example: typical inputs.
        session: threads that it will run on.
    """
    target = settings.target
    if is_compiled(target):
        compiled, remarks = compile_for(optimized, original, settings, example)
        return Lowered(lower(optimized, "portable"), target, remarks, compiled)
    batch, sequence = attended_batch(optimized, original, example)
    threads, use_cache = session.num_threads, settings.cache
    lower_to = functools.partial(_lower, optimized, batch, sequence, threads, use_cache)
    if target != AUTO:
        return lower_to(target)
    if any(value.is_initializer() for value in optimized.graph.inputs):
        reason = "target auto: cpu, since OpenVINO does not take inputs with defaults as they are"
        served = lower_to("cpu")
        return dataclasses.replace(served, notes=(*served.notes, reason))
    inputs = typical_case(original, batch, sequence).inputs if example is None else example
    candidates: dict[str, Lowered] = {}

    def candidate(name: str) -> Module:
        candidates[name] = lower_to(name)
        return candidates[name].module

    choice = choose_runtime(candidate, inputs, session)
    chosen = candidates[choice.target]
    return dataclasses.replace(chosen, notes=(*chosen.notes, choice.reason))


def attended_batch(
    optimized: Module, original: Module, example: Mapping[str, Array] | None
) -> tuple[int, int]:
    """Rows and length of the mask that tells padding, which need not be those of an input.

    A model that cuts its input into pieces attends to each piece as a row.
    """
    sizes = nominal_sizes(original, example)
    for node in optimized.graph:
        mask = node.inputs[0] if node.op_type == "TokenLayout" else None
        dims = None if mask is None else shape_expressions(mask)
        if dims is None or len(dims) != 2:
            continue
        if all(free.name in sizes for dim in dims for free in dim.free_symbols):
            batch, sequence = (int(evaluate(dim, sizes)) for dim in dims)
            return batch, sequence
    return nominal_batch(original, example)


def _lower(
    optimized: Module, batch: int, sequence: int, threads: int, use_cache: bool, target: str
) -> Lowered:
    if target != "cpu":
        return Lowered(lower(optimized, target), target)
    choice = choose_attention(optimized, batch, sequence, threads, use_cache=use_cache)
    if choice is None:
        return Lowered(lower(optimized, target), target)
    module = lower(optimized, target, attention=choice.kernel)
    return Lowered(module, target, (choice.reason,))
