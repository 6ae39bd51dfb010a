"""The default schedule of kernels for a CPU that sum nothing up: rows are shared by all cores."""

from __future__ import annotations

from typing import Any

from tvm import s_tir
from tvm.s_tir import dlight
from tvm.s_tir.dlight.base import normalize_prim_func, try_inline_contiguous_spatial


class ParallelRows(dlight.ScheduleRule):  # type: ignore[misc]
    """Elementwise kernels, gathers and moves of data: all loops but the last run in parallel.

    What is computed on the way is inlined, so that a fused kernel passes over its data once. LLVM
    vectorizes the last loop by itself.
    """

    def apply(self, func: Any, target: Any, tunable: bool) -> Any:
        """The schedule, or None for a kernel that sums something up."""
        if target.kind.name != "llvm":
            return None
        schedule = s_tir.Schedule(func)
        blocks = normalize_prim_func(schedule)
        if blocks is None or not all(block.is_injective() for block in blocks):
            return None
        blocks = try_inline_contiguous_spatial(schedule, blocks)
        if blocks is None or len(blocks) != 1:
            return None
        loops = schedule.get_loops(blocks[0].block_rv)
        if len(loops) < 2:
            return None
        schedule.parallel(schedule.fuse(*loops[:-1]) if len(loops) > 2 else loops[0])
        return schedule
