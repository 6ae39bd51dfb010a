"""The instructions of Hopper's warpgroup matrix unit (sm_90a) as device functions.

Operands lie in shared memory in rows of 128 bytes, eight rows to a swizzle atom of 1024, the
16-byte pieces of row ``r`` exchanged by ``r mod 8`` (PTX ISA, "Asynchronous warpgroup level matrix
shared memory layout").
"""

from __future__ import annotations

from typing import Any

from .device_functions import PTX_TYPE, device_call


def fence_for_tensor_cores() -> Any:
    """Make this thread's stores to shared memory visible to the warpgroup matrix unit."""
    return device_call(
        "dechaff_fence_for_tensor_cores",
        signature="",
        body='  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");',
    )


def begin_warpgroup_products() -> Any:
    """Order earlier register accesses before the products that follow."""
    return device_call(
        "dechaff_begin_warpgroup_products",
        signature="",
        body='  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");',
    )


def commit_warpgroup_products() -> Any:
    """Close the group of products started since the last commit."""
    return device_call(
        "dechaff_commit_warpgroup_products",
        signature="",
        body='  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");',
    )


def wait_for_warpgroup_products(pending: int) -> Any:
    """Wait until at most ``pending`` groups of products are under way."""
    return device_call(
        f"dechaff_wait_for_warpgroup_products_{pending}",
        signature="",
        body=f'  asm volatile("wgmma.wait_group.sync.aligned {pending};" ::: "memory");',
    )


def warpgroup_product(
    accumulator: Any,
    left: Any,
    right: Any,
    columns: int,
    dtype: str,
    *,
    right_step: int = 0,
    left_in_registers: bool = False,
    accumulates: Any = True,
) -> Any:
    """Start 64 x ``columns`` float32 ``accumulator`` += 64x16 ``left`` times ``right``.

    left: address of 16 columns in rows of 64 elements (K is contiguous); or, in registers, each
    warp's 16x16 as for ``multiply_accumulate``. right: address of 16 columns in rows of 64 elements
    (K is contiguous); or with ``right_step``, of 16 rows of 64 columns (N is contiguous), and
    ``right_step`` bytes from one run of 64 columns to the next. accumulates: false to overwrite.
    """
    kind, count = PTX_TYPE[dtype], columns // 2
    numbers = ", ".join(f"%{i}" for i in range(count))
    operands = ", ".join(f'"+f"(c[{i}])' for i in range(count))
    transposed = int(right_step > 0)
    if left_in_registers:
        left_type, left_text = "const unsigned* left", "{%%%d, %%%d, %%%d, %%%d}"
        left_text %= tuple(count + i for i in range(4))
        left_operands = ", ".join(f'"r"(left[{i}])' for i in range(4))
        left_count, modes = 4, f"1, 1, {transposed}"
    else:
        left_type, left_text, left_operands = "unsigned left", f"%{count}", '"l"(a)'
        left_count, modes = 1, f"1, 1, 0, {transposed}"
    descriptor = (
        "(unsigned long long)(({} & 0x3ffff) >> 4) | {}ull << 16 | 64ull << 32 | 1ull << 62"
    )
    left_descriptor = f"  unsigned long long a = {descriptor.format('left', 1)};\n"
    body = (
        f"{'' if left_in_registers else left_descriptor}"
        f"  unsigned long long b = {descriptor.format('right', max(right_step // 16, 1))};\n"
        f'  asm volatile("{{ .reg .pred p; setp.ne.b32 p, %{count + left_count + 1}, 0; "\n'
        f'    "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{kind}.{kind} "\n'
        f'    "{{{numbers}}}, {left_text}, %{count + left_count}, p, {modes}; }}"\n'
        f'    : {operands} : {left_operands}, "l"(b), "r"(accumulates));'
    )
    variant = f"{'r' if left_in_registers else 's'}{right_step}"
    return device_call(
        f"dechaff_wgmma_n{columns}_{variant}_{kind}",
        accumulator,
        left,
        right,
        accumulates,
        signature=f"float* c, {left_type}, unsigned right, int accumulates",
        body=body,
    )
