"""PTX instructions as device functions, for kernels written in TIR.

Each is one instruction, or one instruction and its operands' packing. A shared-memory address is
the 32-bit number that PTX takes (``shared_address``), so that TVM sees the buffer as a whole and
neither compacts it nor puts barriers of its own between the asynchronous copies.

The text is skipped where ``DECHAFF_EMULATED`` is defined: the tests define the same functions in
plain C++ and run a kernel's generated source on the CPU, thread by thread.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T  # noqa: N812

_PREAMBLE = "#ifndef DECHAFF_EMULATED\n"
_END = "\n#endif\n"
_INLINE = "static __device__ __forceinline__"

PTX_TYPE = {"float16": "f16", "bfloat16": "bf16"}


def device_call(name: str, *args: Any, body: str, signature: str, returns: str = "void") -> Any:
    """Call a device function, whose body and signature are CUDA C++.

    Args:
        name: of the function; the same name always has the same body.
        args: expressions of TIR.
        body: the function's statements.
        signature: its parameters.
        returns: TVM's name of what it returns; ``void`` makes a statement.
    """
    c_type = {"void": "void", "uint32": "unsigned", "float32": "float", "int32": "int"}[returns]
    source = f"{_PREAMBLE}{_INLINE} {c_type} {name}({signature}) {{\n{body}\n}}{_END}"
    call = T.cuda.func_call(name, *args, source_code=source, return_type=returns)
    return T.evaluate(call) if returns == "void" else call


def shared_address(pointer: Any) -> Any:
    """The shared-memory address behind a generic pointer, as PTX takes it."""
    return device_call(
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
    return device_call(
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
    return device_call(
        "dechaff_commit_copies",
        signature="",
        body='  asm volatile("cp.async.commit_group;" ::: "memory");',
    )


def wait_for_copies(pending: int) -> Any:
    """Wait until at most ``pending`` groups of this thread's copies are under way."""
    return device_call(
        f"dechaff_wait_for_copies_{pending}",
        signature="",
        body=f'  asm volatile("cp.async.wait_group {pending};" ::: "memory");',
    )


def load_matrices(registers: Any, address: Any, transposed: bool = False) -> Any:
    """Load four 8x8 matrices of 16-bit elements: lane ``i`` gives the address of one row."""
    suffix, modifier = ("_transposed", ".trans") if transposed else ("", "")
    return device_call(
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
    kind = PTX_TYPE[dtype]
    return device_call(
        f"dechaff_mma_{kind}",
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
    kind = PTX_TYPE[dtype]
    return device_call(
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
    return device_call(
        "dechaff_exp2",
        value,
        signature="float value",
        body='  float y;\n  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(value));\n  return y;',
        returns="float32",
    )


def exchange(value: Any, mask: int) -> Any:
    """The float32 of the lane whose number differs in the bits of ``mask``."""
    return device_call(
        "dechaff_exchange",
        value,
        mask,
        signature="float value, int mask",
        body="  return __shfl_xor_sync(0xffffffffu, value, mask);",
        returns="float32",
    )


def store_shared(address: Any, value: Any) -> Any:
    """Store 32 bits to shared memory."""
    return device_call(
        "dechaff_store_shared",
        address,
        value,
        signature="unsigned address, unsigned value",
        body='  asm volatile("st.shared.b32 [%0], %1;" :: "r"(address), "r"(value) : "memory");',
    )


def store_shared_float(address: Any, value: Any) -> Any:
    """Store a float32 to shared memory."""
    return device_call(
        "dechaff_store_shared_float",
        address,
        value,
        signature="unsigned address, float value",
        body='  asm volatile("st.shared.f32 [%0], %1;" :: "r"(address), "f"(value) : "memory");',
    )


def load_shared_float(address: Any) -> Any:
    """A float32 from shared memory."""
    return device_call(
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
    return device_call(
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
    return device_call("dechaff_warp_barrier", signature="", body="  __syncwarp();")


def block_barrier() -> Any:
    """Wait for the thread block, and see its stores."""
    return device_call("dechaff_block_barrier", signature="", body="  __syncthreads();")


def lanes_before(flag: Any) -> Any:
    """Of the lanes below this one, how many have the flag set."""
    return device_call(
        "dechaff_lanes_before",
        flag,
        signature="int flag",
        body="  unsigned votes = __ballot_sync(0xffffffffu, flag);\n"
        "  return __popc(votes & ((1u << (threadIdx.x % 32)) - 1));",
        returns="int32",
    )


def lanes_with(flag: Any) -> Any:
    """Of all lanes of the warp, how many have the flag set."""
    return device_call(
        "dechaff_lanes_with",
        flag,
        signature="int flag",
        body="  return __popc(__ballot_sync(0xffffffffu, flag));",
        returns="int32",
    )


def reciprocal_root(value: Any) -> Any:
    """1 / sqrt of a float32."""
    return device_call(
        "dechaff_reciprocal_root",
        value,
        signature="float value",
        body="  return rsqrtf(value);",
        returns="float32",
    )


def reciprocal(value: Any) -> Any:
    """1 / a float32, by the special-function unit (1 unit in the last place)."""
    return device_call(
        "dechaff_reciprocal",
        value,
        signature="float value",
        body='  float y;\n  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(value));\n  return y;',
        returns="float32",
    )
