"""PTX instructions as device functions, for kernels written in TIR.

Each is one instruction, or one instruction and its operands' packing. A shared-memory address is the
32-bit number that PTX takes (``shared_address``), so that TVM sees the buffer as a whole and neither
compacts it nor puts barriers of its own between the asynchronous copies.

The text is skipped where ``DECHAFF_EMULATED`` is defined: the tests define the same functions in
plain C++ and run a kernel's generated source on the CPU, thread by thread.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

_PREAMBLE = "#ifndef DECHAFF_EMULATED\n"
_END = "\n#endif\n"
_INLINE = "static __device__ __forceinline__"

_PTX_TYPE = {"float16": "f16", "bfloat16": "bf16"}


def _call(name: str, *args: Any, body: str, signature: str, returns: str = "void") -> Any:
    c_type = {"void": "void", "uint32": "unsigned", "float32": "float", "int32": "int"}[returns]
    source = f"{_PREAMBLE}{_INLINE} {c_type} {name}({signature}) {{\n{body}\n}}{_END}"
    call = T.cuda.func_call(name, *args, source_code=source, return_type=returns)
    return T.evaluate(call) if returns == "void" else call


def shared_address(pointer: Any) -> Any:
    """The shared-memory address behind a generic pointer, as PTX takes it."""
    return _call(
        "dechaff_shared_address",
        pointer,
        signature="const void* pointer",
        body="  return (unsigned)__cvta_generic_to_shared(pointer);",
        returns="uint32",
    )


def copy_async(destination: Any, source: Any, valid: Any) -> Any:
    """Start copying 16 bytes from global to shared memory; zeros where ``valid`` is false.

    ``source`` must point into its tensor in either case.
    """
    return _call(
        "dechaff_copy_async",
        destination,
        source,
        valid,
        signature="unsigned destination, const void* source, int valid",
        body='  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"\n'
        '    :: "r"(destination), "l"(source), "r"(valid ? 16 : 0) : "memory");',
    )


def commit_copies() -> Any:
    """Close the group of asynchronous copies started since the last commit."""
    return _call(
        "dechaff_commit_copies",
        signature="",
        body='  asm volatile("cp.async.commit_group;" ::: "memory");',
    )


def wait_for_copies(pending: int) -> Any:
    """Wait until at most ``pending`` groups of this thread's copies are under way."""
    return _call(
        f"dechaff_wait_for_copies_{pending}",
        signature="",
        body=f'  asm volatile("cp.async.wait_group {pending};" ::: "memory");',
    )


def load_matrices(registers: Any, address: Any, transposed: bool = False) -> Any:
    """Load four 8x8 matrices of 16-bit elements: lane ``i`` gives the address of one row."""
    suffix, modifier = ("_transposed", ".trans") if transposed else ("", "")
    return _call(
        f"dechaff_load_matrices{suffix}",
        registers,
        address,
        signature="unsigned* r, unsigned address",
        body=f'  asm volatile("ldmatrix.sync.aligned.m8n8.x4{modifier}.shared.b16 '
        '{%0, %1, %2, %3}, [%4];"\n'
        '    : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");',
    )


def multiply_accumulate(accumulator: Any, a: Any, b: Any, dtype: str) -> Any:
    """Tensor cores: 16x8 float32 ``accumulator`` += 16x16 ``a`` times 16x8 ``b``."""
    kind = _PTX_TYPE[dtype]
    return _call(
        f"dechaff_multiply_accumulate_{kind}",
        accumulator,
        a,
        b,
        signature="float* c, const unsigned* a, const unsigned* b",
        body=f'  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 '
        '{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"\n'
        '    : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])\n'
        '    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));',
    )


def pack_pair(low: Any, high: Any, dtype: str) -> Any:
    """Two float32 rounded to 16 bits each, in one register."""
    kind = _PTX_TYPE[dtype]
    return _call(
        f"dechaff_pack_pair_{kind}",
        low,
        high,
        signature="float low, float high",
        body="  unsigned pair;\n"
        f'  asm("cvt.rn.{kind}x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));\n'
        "  return pair;",
        returns="uint32",
    )


def exp2(value: Any) -> Any:
    """2 to a float32, by the special-function unit (relative error about 2**-22)."""
    return _call(
        "dechaff_exp2",
        value,
        signature="float value",
        body='  float y;\n  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(value));\n  return y;',
        returns="float32",
    )


def exchange(value: Any, mask: int) -> Any:
    """The float32 of the lane whose number differs in the bits of ``mask``."""
    return _call(
        "dechaff_exchange",
        value,
        mask,
        signature="float value, int mask",
        body="  return __shfl_xor_sync(0xffffffffu, value, mask);",
        returns="float32",
    )


def store_shared(address: Any, value: Any) -> Any:
    """Store 32 bits to shared memory."""
    return _call(
        "dechaff_store_shared",
        address,
        value,
        signature="unsigned address, unsigned value",
        body='  asm volatile("st.shared.b32 [%0], %1;" :: "r"(address), "r"(value) : "memory");',
    )


def store_shared_float(address: Any, value: Any) -> Any:
    """Store a float32 to shared memory."""
    return _call(
        "dechaff_store_shared_float",
        address,
        value,
        signature="unsigned address, float value",
        body='  asm volatile("st.shared.f32 [%0], %1;" :: "r"(address), "f"(value) : "memory");',
    )


def load_shared_float(address: Any) -> Any:
    """A float32 from shared memory."""
    return _call(
        "dechaff_load_shared_float",
        address,
        signature="unsigned address",
        body="  float value;\n"
        '  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");\n'
        "  return value;",
        returns="float32",
    )


def copy_to_global(destination: Any, address: Any) -> Any:
    """Copy 16 bytes from shared to global memory."""
    return _call(
        "dechaff_copy_to_global",
        destination,
        address,
        signature="void* destination, unsigned address",
        body="  uint4 v;\n"
        '  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"\n'
        '    : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address) : "memory");\n'
        "  *(uint4*)destination = v;",
    )


def warp_barrier() -> Any:
    """Wait for the warp, and see its stores."""
    return _call("dechaff_warp_barrier", signature="", body="  __syncwarp();")


def block_barrier() -> Any:
    """Wait for the thread block, and see its stores."""
    return _call("dechaff_block_barrier", signature="", body="  __syncthreads();")


_LOAD_PAIRS = {
    "float16": "    float2 pair = __half22float2(((const __half2*)&words)[i]);\n",
    "bfloat16": "    float2 pair = __bfloat1622float2(((const __nv_bfloat162*)&words)[i]);\n",
}
_STORE_PAIRS = {
    "float16": "    ((__half2*)&words)[i] = __floats2half2_rn(r[2 * i], r[2 * i + 1]);\n",
    "bfloat16": "    ((__nv_bfloat162*)&words)[i] = __floats2bfloat162_rn(r[2 * i], r[2 * i + 1]);\n",
}


def load_eight(registers: Any, source: Any, dtype: str) -> Any:
    """Eight neighbours in global memory to float32 registers; ``source`` is aligned to 16 bytes."""
    if dtype == "float32":
        body = (
            "  float4 low = ((const float4*)source)[0], high = ((const float4*)source)[1];\n"
            "  r[0] = low.x; r[1] = low.y; r[2] = low.z; r[3] = low.w;\n"
            "  r[4] = high.x; r[5] = high.y; r[6] = high.z; r[7] = high.w;"
        )
    else:
        body = (
            "  uint4 words = *(const uint4*)source;\n"
            "  #pragma unroll\n"
            "  for (int i = 0; i < 4; i++) {\n"
            f"{_LOAD_PAIRS[dtype]}"
            "    r[2 * i] = pair.x; r[2 * i + 1] = pair.y;\n  }"
        )
    return _call(
        f"dechaff_load_eight_{dtype}",
        registers,
        source,
        signature="float* r, const void* source",
        body=body,
    )


def store_eight(destination: Any, registers: Any, dtype: str) -> Any:
    """Eight float32 registers, rounded, to neighbours in global memory, aligned to 16 bytes."""
    if dtype == "float32":
        body = (
            "  ((float4*)destination)[0] = make_float4(r[0], r[1], r[2], r[3]);\n"
            "  ((float4*)destination)[1] = make_float4(r[4], r[5], r[6], r[7]);"
        )
    else:
        body = (
            "  uint4 words;\n"
            "  #pragma unroll\n"
            f"  for (int i = 0; i < 4; i++) {{\n{_STORE_PAIRS[dtype]}  }}\n"
            "  *(uint4*)destination = words;"
        )
    return _call(
        f"dechaff_store_eight_{dtype}",
        destination,
        registers,
        signature="void* destination, const float* r",
        body=body,
    )


def lanes_before(flag: Any) -> Any:
    """Of the lanes below this one, how many have the flag set."""
    return _call(
        "dechaff_lanes_before",
        flag,
        signature="int flag",
        body="  unsigned votes = __ballot_sync(0xffffffffu, flag);\n"
        "  return __popc(votes & ((1u << (threadIdx.x % 32)) - 1));",
        returns="int32",
    )


def lanes_with(flag: Any) -> Any:
    """Of all lanes of the warp, how many have the flag set."""
    return _call(
        "dechaff_lanes_with",
        flag,
        signature="int flag",
        body="  return __popc(__ballot_sync(0xffffffffu, flag));",
        returns="int32",
    )


def reciprocal_root(value: Any) -> Any:
    """1 / sqrt of a float32."""
    return _call(
        "dechaff_reciprocal_root",
        value,
        signature="float value",
        body="  return rsqrtf(value);",
        returns="float32",
    )


def reciprocal(value: Any) -> Any:
    """1 / a float32, by the special-function unit (1 unit in the last place)."""
    return _call(
        "dechaff_reciprocal",
        value,
        signature="float value",
        body='  float y;\n  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(value));\n  return y;',
        returns="float32",
    )


def load_pair(registers: Any, source: Any, dtype: str) -> Any:
    """Two neighbours in global memory to float32 registers; ``source`` is aligned to 4 bytes."""
    vector, convert = {
        "float16": ("__half2", "__half22float2"),
        "bfloat16": ("__nv_bfloat162", "__bfloat1622float2"),
    }[dtype]
    return _call(
        f"dechaff_load_pair_{dtype}",
        registers,
        source,
        signature="float* r, const void* source",
        body=f"  float2 pair = {convert}(*(const {vector}*)source);\n  r[0] = pair.x; r[1] = pair.y;",
    )


# Hopper's warpgroup matrix unit (sm_90a). Operands lie in shared memory in rows of 128 bytes, eight
# rows to a swizzle atom of 1024, the 16-byte pieces of row r exchanged by r mod 8 (PTX ISA,
# "Asynchronous warpgroup level matrix shared memory layout").


def fence_for_tensor_cores() -> Any:
    """Make this thread's stores to shared memory visible to the warpgroup matrix unit."""
    return _call(
        "dechaff_fence_for_tensor_cores",
        signature="",
        body='  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");',
    )


def begin_warpgroup_products() -> Any:
    """Order earlier register accesses before the products that follow."""
    return _call(
        "dechaff_begin_warpgroup_products",
        signature="",
        body='  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");',
    )


def commit_warpgroup_products() -> Any:
    """Close the group of products started since the last commit."""
    return _call(
        "dechaff_commit_warpgroup_products",
        signature="",
        body='  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");',
    )


def wait_for_warpgroup_products(pending: int) -> Any:
    """Wait until at most ``pending`` groups of products are under way."""
    return _call(
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
    """Start 64 x ``columns`` float32 ``accumulator`` += 64x16 ``left`` times 16 x ``columns`` right.

    left: address of 16 columns in rows of 64 elements (K is contiguous); or, in registers, each
    warp's 16x16 as for ``multiply_accumulate``. right: address of 16 columns in rows of 64 elements
    (K is contiguous); or with ``right_step``, of 16 rows of 64 columns (N is contiguous), and
    ``right_step`` bytes from one run of 64 columns to the next. accumulates: false to overwrite.
    """
    kind, count = _PTX_TYPE[dtype], columns // 2
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
    return _call(
        f"dechaff_warpgroup_product_n{columns}_{variant}_{kind}",
        accumulator,
        left,
        right,
        accumulates,
        signature=f"float* c, {left_type}, unsigned right, int accumulates",
        body=body,
    )
