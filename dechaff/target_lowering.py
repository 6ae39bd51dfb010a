"""From a module that the passes are done with to one that a runtime runs, for one target."""

from __future__ import annotations

from collections.abc import Mapping

from dechaff.backends import SessionSettings, lower
from dechaff.ir import Module

from .arrays import Array
from .attention_choice import choose_attention
from .nominal_sizes import nominal_batch
from .settings import Settings


def lower_for_target(
    optimized: Module,
    original: Module,
    settings: Settings,
    example: Mapping[str, Array] | None,
    session: SessionSettings,
) -> tuple[Module, str | None]:
    """Lower a module, with the attention kernel that this machine runs faster.

    Args:
        optimized: the module after all passes.
        original: the module before them; its inputs tell the sizes to time kernels at.
        settings: target and cache. ``portable`` may run anywhere, and nothing is measured for it;
            so is the graph that stands beside generated code.
        example: typical inputs.
        session: threads that it will run on.

    Returns:
        The lowered module, and a line on the choice of a kernel where there was one.
    """
    if settings.target != "cpu":
        return lower(optimized, "portable"), None
    batch, sequence = nominal_batch(original, example)
    choice = choose_attention(
        optimized, batch, sequence, session.num_threads, use_cache=settings.cache
    )
    if choice is None:
        return lower(optimized, "cpu"), None
    return lower(optimized, "cpu", attention=choice.kernel), choice.reason
