"""Whether padding is removed, for a user who shows a batch that has none.

Finding out that there is nothing to remove takes a few hundred microseconds: a tenth of the time of
a small model on a short sequence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from dechaff.backends import SessionSettings, start_session
from dechaff.ir import Module
from dechaff.passes import Numerics, Pass, run_passes

from .arrays import Array
from .runtime_choice import is_clearly_faster, measured, warm_up
from .settings import Settings
from .target_lowering import lower_for_target

_REMOVAL = "remove-padding"


@dataclasses.dataclass(frozen=True)
class PaddingChoice:
    """The passes to run, and a line that says why; no line where there was nothing to choose."""

    passes: Sequence[Pass]
    reason: str | None = None


def choose_padding(
    module: Module,
    passes: Sequence[Pass],
    example: Mapping[str, Array],
    settings: Settings,
    session: SessionSettings,
) -> PaddingChoice:
    """Run the model with its padding removed and kept, in ONNX Runtime, in turns.

    Nothing is measured where the batch has padding, whose place in the outputs is zero only where
    it is removed, and where a pass of the list is approximate: such passes can take long.

    Args:
        module: the model before all passes; it stays as it is.
        passes: what was asked for.
        example: the batch, an array per graph input.
        settings: whether timings of kernels are kept.
        session: threads.
    """
    exact = all(step.numerics is not Numerics.APPROXIMATE for step in passes)
    if not exact or all(step.name != _REMOVAL for step in passes):
        return PaddingChoice(passes)
    removed, records = run_passes(module.clone(), passes)
    fires = any(record.name == _REMOVAL and record.changed for record in records)
    if not fires or not _is_without_padding(removed, example):
        return PaddingChoice(passes)
    without = [step for step in passes if step.name != _REMOVAL]
    kept, _ = run_passes(module.clone(), without)
    for_cpu = dataclasses.replace(settings, target="cpu")
    sessions = {
        form: start_session(
            lower_for_target(graph, module, for_cpu, example, session).module, session
        )
        for form, graph in (("removed", removed), ("kept", kept))
    }
    warm_up(sessions, [example])
    faster, seconds = is_clearly_faster("kept", "removed", sessions, [example])
    figures = measured([example], seconds)
    if not faster:
        return PaddingChoice(passes, f"padding is removed: {figures}")
    advice = "where other batches have padding, show one of them"
    return PaddingChoice(without, f"padding is kept: {figures}; {advice}")


def _is_without_padding(removed: Module, example: Mapping[str, Array]) -> bool:
    """Whether the batch tells, by masks among its inputs, that all its positions are valid."""
    positions = removed.valid_positions
    given = [item.kept(example[item.mask]) for item in positions if item.mask in example]
    return len(given) == len(positions) > 0 and all(kept.all() for kept in given)
