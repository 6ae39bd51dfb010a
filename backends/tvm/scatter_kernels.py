"""Kernels that write to computed places: which elements are true, and packed tokens put back."""

from __future__ import annotations

from tvm import relax
from tvm.script import tirx as T  # noqa: N812

from .emission import Emission, Expr


@T.prim_func(private=True, s_tir=True)  # type: ignore[untyped-decorator]
def places_of_true(mask: T.handle, running: T.handle, places: T.handle) -> None:
    """``places[running[i] - 1] = i`` where ``mask[i]``."""
    length = T.int64()
    count = T.int64()
    mask_buffer = T.match_buffer(mask, (length,), "bool")
    running_buffer = T.match_buffer(running, (length,), "int64")
    place_buffer = T.match_buffer(places, (count,), "int64")
    for i in range(length):
        with T.sblock("place"):
            vi = T.axis.spatial(length, i)
            T.reads(mask_buffer[vi], running_buffer[vi])
            T.writes(place_buffer[0:count])
            if mask_buffer[vi] and running_buffer[vi] <= count:
                place_buffer[running_buffer[vi] - T.int64(1)] = vi


@T.prim_func(private=True, s_tir=True)  # type: ignore[untyped-decorator]
def prefix_sums(values: T.handle, sums: T.handle) -> None:
    """``sums[i]`` is the sum of ``values`` up to ``i``, one after the other."""
    length = T.int64()
    value_buffer = T.match_buffer(values, (length,), "int64")
    sum_buffer = T.match_buffer(sums, (length,), "int64")
    with T.sblock("prefix"):
        T.reads(value_buffer[0:length])
        T.writes(sum_buffer[0:length])
        total = T.sblock_alloc_buffer((1,), "int64", scope="local")
        total[0] = T.int64(0)
        for i in range(length):
            total[0] = total[0] + value_buffer[i]
            sum_buffer[i] = total[0]


def running_sum(emission: Emission, values: Expr) -> Expr:
    """The sums of int64[N] up to each element.

    TVM's own scan for a CPU writes a first element even where there is none.
    """
    if emission.target == "cuda":
        return emission.emit(relax.op.cumsum(values, 0, "int64"))
    output = (emission.shape(values), "int64")
    return emission.call_kernel(prefix_sums, "prefix_sums", [values], [output])


def positions_of_true(emission: Emission, mask: Expr) -> tuple[Expr, Expr]:
    """Where a vector is true, ascending, and how many are up to each element.

    Args:
        emission: the function under construction.
        mask: bool[N].

    Returns:
        int64[n], where n is read back at run time, and the running count, int64[N].
    """
    counts = emission.emit(relax.op.astype(mask, "int64"))
    running = running_sum(emission, counts)
    total = emission.emit(relax.op.sum(counts))
    (count,) = emission.read_sizes(total, 1)
    found = emission.call_kernel(
        places_of_true, "places_of_true", [mask, running], [((count,), "int64")]
    )
    return found, running
