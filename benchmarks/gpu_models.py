"""BERT-base as each contender on a GPU runs it: eager, compiled, packed by hand, by dechaff."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Call = Callable[[], Any]

_MEASURED_TOKENS = 4928
"""Where products are measured: about 16 rows of 512 positions, 60 % of them tokens."""

PASSES = "default,merge-qkv,convert-precision"


def untyped_torch() -> Any:
    """Torch as a value without types: much of what is called on a GPU has none."""
    return importlib.import_module("torch")


def bert_base(layers: int) -> torch.nn.Module:
    """An untrained BERT encoder without its pooler, its parameters moved off their constants."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(20)
    model: torch.nn.Module = BertModel(
        BertConfig(num_hidden_layers=layers, max_position_embeddings=1024), add_pooling_layer=False
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


@dataclasses.dataclass(frozen=True)
class Batch:
    """One padded batch on the GPU: int64[B, S] each."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor

    @property
    def lengths(self) -> torch.Tensor:
        """Tokens of each row."""
        return self.attention_mask.sum(1)


def random_batch(batch: int, sequence: int, generator: torch.Generator) -> Batch:
    """Lengths uniform in [0.2 S, S], as in ByteTransformer's benchmark; right padding."""
    import torch

    lengths = torch.randint(
        max(1, sequence // 5), sequence + 1, (batch, 1), generator=generator, device="cuda"
    )
    ids = torch.randint(1000, 30000, (batch, sequence), generator=generator, device="cuda")
    mask = (torch.arange(sequence, device="cuda") < lengths).long()
    return Batch(ids, mask)


def compiled_by_dechaff(model: torch.nn.Module, products: str) -> Any:
    """The model through dechaff: captured, packed, in float16, compiled by TVM for this GPU.

    Args:
        model: the encoder.
        products: ``library``, ``generated``, or ``measured``: the faster for each dense layer.
    """
    import torch

    from dechaff.backends.tvm import (
        ProductChoice,
        choose_products,
        compile_module,
        resolve_target,
    )
    from dechaff.model_import import import_model
    from dechaff.passes import parse_pass_list, run_passes

    ids = torch.randint(1000, 2000, (4, 32))
    mask = (torch.arange(32) < torch.tensor([[32], [9], [20], [7]])).long()
    module = import_model(model, {"input_ids": ids, "attention_mask": mask})
    packed, _ = run_passes(module, parse_pass_list(PASSES), [])
    target = resolve_target("cuda")
    if products == "measured":
        choice = choose_products(packed, target, sizes={"T": _MEASURED_TOKENS}, measure=True)
    else:
        choice = ProductChoice("library" if products == "library" else "generated")
    return compile_module(packed, target, products=choice)


class HandPacked:
    """What an engineer writes in torch: packed rows, ``varlen_attn``, cuBLAS, one merged QKV.

    With ``graphed``, the layers are a CUDA graph for the exact number of tokens, which is more than
    most write: the fewest launches that torch can do with.
    """

    def __init__(self, model: Any) -> None:
        torch = untyped_torch()
        from torch.nn.attention.varlen import varlen_attn

        self._attention: Any = varlen_attn
        self._embeddings = model.embeddings
        self._layers = []
        for layer in model.encoder.layer:
            own = layer.attention.self
            weight = torch.cat([own.query.weight, own.key.weight, own.value.weight])
            bias = torch.cat([own.query.bias, own.key.bias, own.value.bias])
            self._layers.append((weight, bias, layer))
        self._graphs: dict[Any, Any] = {}

    def __call__(self, batch: Batch, graphed: bool) -> Any:
        """Hidden states [B, S, D], zero at padded positions."""
        torch = untyped_torch()

        mask = batch.attention_mask.bool()
        index = mask.flatten().nonzero()[:, 0]
        lengths = mask.sum(1)
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
        longest = mask.shape[1]
        if not graphed:
            return self._run(batch.input_ids, index, offsets, longest)
        key = (tuple(mask.shape), len(index))
        if key not in self._graphs:
            self._graphs[key] = self._captured(batch.input_ids, index, offsets, longest)
        graph, ids, own_index, own_offsets, result = self._graphs[key]
        ids.copy_(batch.input_ids)
        own_index.copy_(index)
        own_offsets.copy_(offsets)
        graph.replay()
        return result.clone()

    def _captured(self, ids: Any, index: Any, offsets: Any, longest: int) -> Any:
        torch = untyped_torch()

        own = (ids.clone(), index.clone(), offsets.clone())
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._run(*own, longest)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self._run(*own, longest)
        return (graph, *own, result)

    def _run(self, ids: Any, index: Any, offsets: Any, longest: int) -> Any:
        torch = untyped_torch()
        functional = torch.nn.functional

        batch, sequence = ids.shape
        table = self._embeddings
        hidden = (
            table.word_embeddings(ids.flatten()[index])
            + table.token_type_embeddings.weight[0]
            + table.position_embeddings(index % sequence)
        )
        hidden = table.LayerNorm(hidden)
        for weight, bias, layer in self._layers:
            heads = layer.attention.self.num_attention_heads
            q, k, v = (
                part.unflatten(1, (heads, -1))
                for part in functional.linear(hidden, weight, bias).chunk(3, 1)
            )
            context = self._attention(q, k, v, offsets, offsets, longest, longest).flatten(1)
            output = layer.attention.output
            hidden = output.LayerNorm(output.dense(context) + hidden)
            inner = functional.gelu(layer.intermediate.dense(hidden))
            hidden = layer.output.LayerNorm(layer.output.dense(inner) + hidden)
        padded = torch.zeros(batch * sequence, hidden.shape[1], dtype=hidden.dtype, device="cuda")
        padded[index] = hidden
        return padded.unflatten(0, (batch, sequence))


def onnxruntime_cuda(model: torch.nn.Module, batch: Batch) -> Call | None:
    """ONNX Runtime on CUDA in float16, inputs and outputs bound on the GPU; None without it."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return None
    import io

    torch = untyped_torch()
    buffer = io.BytesIO()
    inputs = (batch.input_ids, batch.attention_mask)
    torch.onnx.export(model, inputs, buffer, dynamo=True, input_names=["ids", "mask"])
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CUDAExecutionProvider"])
    binding = session.io_binding()
    for name, tensor in zip(("ids", "mask"), inputs, strict=True):
        binding.bind_input(name, "cuda", 0, "int64", tuple(tensor.shape), tensor.data_ptr())
    binding.bind_output(session.get_outputs()[0].name, "cuda")

    def call() -> Any:
        session.run_with_iobinding(binding)
        return torch.from_dlpack(binding.get_outputs()[0])

    return call
