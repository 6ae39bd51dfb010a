"""Threads, affinity, memory and requests of a session."""

from __future__ import annotations

import dataclasses
from typing import Any

from dechaff.ir import UsageError

from .threads import usable_cores


@dataclasses.dataclass(frozen=True)
class SessionSettings:
    """How a runtime runs a model; the same answers under all settings.

    Attributes:
        threads: threads that compute, the caller's included; None for every physical core that the
            process may use (see :func:`usable_cores`).
        affinity: the processor that each thread is held to, as the system numbers them from 0, one
            for each of ``threads``. The first is the caller's thread, which is left where
            it is. None lets the system move threads, which is best unless other work on the machine
            is held to processors too.
        memory_arena: keep freed memory for the next run. Off gives it back after each run, which is
            slower, and worth it for a process that seldom runs.
        requests: for OpenVINO, into how many parts the rows of a batch may be shared out; each has
            its part of the threads. None for as many as OpenVINO likes best, 1 for never: the model
            is then held in memory once, and not a second time for batches.
    """

    threads: int | None = None
    affinity: tuple[int, ...] | None = None
    memory_arena: bool = True
    requests: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"expected at least 1 thread, got {self.threads}")
        if self.requests is not None and not 1 <= self.requests <= self.num_threads:
            raise UsageError(
                f"expected 1 to {self.num_threads} requests, one for each thread at most, "
                f"got {self.requests}"
            )
        if self.affinity is None:
            return
        if min(self.affinity, default=0) < 0:
            raise UsageError(f"expected processors from 0 on, got {self.affinity}")
        if len(self.affinity) != self.num_threads:
            raise UsageError(
                f"expected a processor for each of {self.num_threads} threads, "
                f"got {len(self.affinity)}: {self.affinity}"
            )

    @property
    def num_threads(self) -> int:
        """Threads that compute, a number in any case."""
        return usable_cores() if self.threads is None else self.threads

    def apply_to(self, options: Any) -> None:
        """Write the settings into ``onnxruntime.SessionOptions``."""
        options.intra_op_num_threads = self.num_threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = self.memory_arena
        if self.affinity is not None and self.num_threads > 1:
            # The runtime counts processors from 1, and wants none for the caller's thread.
            held = ";".join(str(processor + 1) for processor in self.affinity[1:])
            options.add_session_config_entry("session.intra_op_thread_affinities", held)

    def __str__(self) -> str:
        threads = f"{self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        chosen = "all usable cores" if self.threads is None else "as asked"
        place = "placed by the system"
        if self.affinity is not None:
            place = f"held to processors {', '.join(map(str, self.affinity))}"
        shared = "" if self.requests is None else f", at most {self.requests} requests"
        arena = "on" if self.memory_arena else "off"
        return f"{threads} ({chosen}), {place}, memory arena {arena}{shared}"
