"""Are the GPU kernels right: fresh random inputs, poisoned outputs, a float64 reference."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from .gpu_models import Batch

KERNEL_LIMIT = 2e-3
"""Largest relative error (2-norm) of one float16 kernel."""

MODEL_LIMIT = 1e-2
"""Of twelve layers in float16."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison: relative error in the 2-norm, not a number where an output was missed."""

    name: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit; not a number is not."""
        return self.error < self.limit


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """``||found - expected|| / ||expected||`` in float64; not a number if an element is none."""
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm())


def attention_reference(qkv: Any, starts: Sequence[int], heads: int) -> Any:
    """Attention within each sequence in float64; qkv: [T, 3 D]."""
    import torch

    q, k, v = (part.double().unflatten(1, (heads, -1)).transpose(0, 1) for part in qkv.chunk(3, 1))
    result = torch.zeros_like(q)
    for first, end in itertools.pairwise(starts):
        scores = q[:, first:end] @ k[:, first:end].mT / math.sqrt(q.shape[-1])
        result[:, first:end] = scores.softmax(-1) @ v[:, first:end]
    return result.transpose(0, 1).flatten(1)


class AttentionKernel:
    """The packed attention as TVM compiles it for this GPU: BERT-base's heads, float16."""

    def __init__(self) -> None:
        import tvm

        from dechaff.backends.tvm import cuda_compilation  # noqa: F401  # it registers the compiler
        from dechaff.backends.tvm.kernels.attention_shape import VarlenAttentionShape
        from dechaff.backends.tvm.kernels.attention_work import attention_work
        from dechaff.backends.tvm.kernels.warpgroup_attention import warpgroup_attention
        from dechaff.backends.tvm.targets import resolve_target

        shape = VarlenAttentionShape(12, 12, 64, scale=0.125, fused_qkv=True)
        functions = {
            "attend": warpgroup_attention(shape).with_attr("global_symbol", "attend"),
            "work": attention_work(shape.tile_rows, False).with_attr("global_symbol", "work"),
        }
        target = resolve_target("cuda")
        with target:
            self._library = tvm.tirx.build(tvm.IRModule(functions), target=target)
        self._rows = shape.tile_rows

    def work(self, starts: torch.Tensor, tokens: int) -> torch.Tensor:
        """The work items for these offsets, int64[B + 1]."""
        import torch

        items = tokens // self._rows + len(starts) - 1
        work = torch.full((items, 8), -1, dtype=torch.int32, device="cuda")
        self._library["work"](starts, starts, tokens, tokens, work)
        return work

    def __call__(self, qkv: torch.Tensor, work: torch.Tensor, context: torch.Tensor) -> None:
        """Write the context."""
        self._library["attend"](qkv, work, context)


def check_attention(kernel: AttentionKernel, generator: Any) -> list[Check]:
    """Right at several sizes, and inside its tensors whatever the offsets say."""
    import torch

    checks = []
    for batch, sequence in ((1, 1), (3, 37), (5, 200), (16, 512)):
        lengths = torch.randint(1, sequence + 1, (batch,), generator=generator, device="cuda")
        lengths[-1] = 0 if batch == 5 else lengths[-1]
        starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        tokens = int(starts[-1])
        qkv = torch.randn(tokens, 2304, generator=generator, device="cuda").half()
        context = torch.full((tokens, 768), float("nan"), device="cuda").half()
        kernel(qkv, kernel.work(starts, tokens), context)
        expected = attention_reference(qkv, starts.tolist(), 12)
        name = f"attention B={batch} S={sequence}"
        checks.append(Check(name, relative_error(context, expected), KERNEL_LIMIT))
    wrong = torch.tensor([0, -9, 1 << 40, 3, tokens, 2], device="cuda")
    guarded = torch.full((tokens + 64, 768), 5.0, device="cuda").half()
    kernel(qkv, kernel.work(wrong, tokens), guarded[32:-32])
    outside = torch.cat([guarded[:32], guarded[-32:]])
    checks.append(Check("wrong offsets write outside", float((outside != 5).sum()), 0.5))
    return checks


def check_model(compiled: Any, reference: Any, batch: Batch, name: str) -> Check:
    """The compiled model against the same model in float64, at valid positions.

    The model runs four times, eagerly and by its graph, the last time on other tokens than before:
    a result that is left over from a run is wrong.
    """
    import torch

    other = torch.randint_like(batch.input_ids, 1000, 30000)
    mask = batch.attention_mask
    for ids in (other, batch.input_ids, other, batch.input_ids):
        result = torch.utils.dlpack.from_dlpack(compiled.run_tensors([ids, mask])[0])
    with torch.no_grad():
        expected = reference(input_ids=batch.input_ids, attention_mask=mask).last_hidden_state
    kept = mask.bool()
    error = relative_error(result[kept], expected[kept])
    if bool((result[~kept] != 0).any()):
        error = float("nan")
    return Check(name, error, MODEL_LIMIT)
