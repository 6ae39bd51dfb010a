"""Random Transformer blocks in ONNX: what they may be made of, and how each is written."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

WIDTH, HEADS, HEAD, VOCABULARY, POSITIONS = 16, 4, 4, 30, 64

CHOICES: Mapping[str, tuple[Any, ...]] = {
    "opset": (13, 17, 18, 21, 23, 24),
    "layers": (1, 2),
    "norm_first": (True, False),
    "norm": ("layer", "layer in primitives", "root mean square in primitives"),
    "mask": ("none", "added", "added, small", "selected", "selected, flipped", "3-D", "float"),
    "causal": (False, True),
    "key_heads": (4, 2, 1),
    "scale": ("multiplied", "divided", "on the query", "on both", "none"),
    "positions": ("none", "learned", "rotary", "bias of distance"),
    "activation": ("relu", "gelu", "gelu, tanh", "silu"),
    "dense": ("MatMul and Add", "bias first", "no bias"),
    "heads": ("by zeros", "by shapes"),
    "result": ("hidden", "first token", "masked mean", "mean"),
}
"""What a block may be made of; the first of each is the plainest."""


@dataclasses.dataclass(frozen=True)
class Block:
    """What a generated model is made of; see ``CHOICES``."""

    opset: int
    layers: int
    norm_first: bool
    norm: str
    mask: str
    causal: bool
    key_heads: int
    scale: str
    positions: str
    activation: str
    dense: str
    heads: str
    result: str


def block_of(seed: int) -> Block:
    """The block that a seed stands for."""
    generator = random.Random(seed)
    return Block(**{name: generator.choice(CHOICES[name]) for name in CHOICES})


class _Writer:
    """Writes a model's operations in text form, and makes up its weights."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.lines: list[str] = []
        self.weights: dict[str, np.ndarray[Any, Any]] = {}
        self._numbers = itertools.count()
        self._random = np.random.default_rng(7)

    def op(self, call: str) -> str:
        name = f"v{next(self._numbers)}"
        self.lines.append(f"{name} = {call}")
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self._random.normal(0, 0.3, shape).astype(np.float32))

    def constant(self, value: Any) -> str:
        name = f"w{next(self._numbers)}"
        self.weights[name] = np.asarray(value)
        return name

    def number(self, value: float) -> str:
        return self.constant(np.float32(value))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))


def build(block: Block) -> onnx.ModelProto:
    """The model: token numbers and a mask in, hidden states or one state per row out."""
    out = _Writer(block)
    hidden = out.op("Gather (table, input_ids)")
    out.weights["table"] = np.random.default_rng(3).normal(0, 1, (VOCABULARY, WIDTH)).astype("f")
    length = out.op("Gather (sizes, index_one)")
    out.lines.insert(0, "sizes = Shape (input_ids)")
    out.weights["index_one"] = np.array(1, np.int64)
    places = out.op(f"Range ({out.constant(np.array(0, np.int64))}, {length}, index_one)")
    if block.positions == "learned":
        table = out.weight(POSITIONS, WIDTH)
        hidden = out.op(f"Add ({hidden}, {out.op(f'Gather ({table}, {places})')})")
    bias = _mask(out, places)
    for _ in range(block.layers):
        hidden = _layer(out, hidden, bias, places)
    _result(out, hidden)
    kind = "float" if block.mask == "float" else "int64"
    shape = "B,S,16" if block.result == "hidden" else "B,16"
    text = (
        f'<ir_version: 8, opset_import: ["" : {block.opset}]>\n'
        f"block (int64[B,S] input_ids, {kind}[B,S] attention_mask) => (float[{shape}] y)\n"
        "{\n  " + "\n  ".join(out.lines) + "\n}"
    )
    model = parser.parse_model(text)
    for name, array in out.weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model


def _mask(out: _Writer, places: str) -> list[tuple[str, str]]:
    """How scores are masked: (``add``, a bias) or (``hide``, a condition) or its opposite."""
    block, terms = out.block, []
    seen = _unsqueeze(out, out.op("Cast <to = 1> (attention_mask)"), 1, 2)
    if block.mask in ("added", "added, small", "float"):
        lowest = -10000.0 if block.mask == "added, small" else float(np.finfo(np.float32).min)
        gone = out.op(f"Sub ({out.number(1)}, {seen})")
        terms.append(("add", out.op(f"Mul ({gone}, {out.number(lowest)})")))
    elif block.mask == "selected":
        terms.append(("hide", out.op(f"Equal ({seen}, {out.number(0)})")))
    elif block.mask == "selected, flipped":
        terms.append(("show", out.op(f"Greater ({seen}, {out.number(0)})")))
    elif block.mask == "3-D":
        rows = _unsqueeze(out, out.op("Cast <to = 1> (attention_mask)"), 2)
        columns = _unsqueeze(out, out.op("Cast <to = 1> (attention_mask)"), 1)
        both = _unsqueeze(out, out.op(f"Mul ({rows}, {columns})"), 1)
        terms.append(("hide", out.op(f"Equal ({both}, {out.number(0)})")))
    row, column = _unsqueeze(out, places, 1), _unsqueeze(out, places, 0)
    if block.causal:
        terms.append(("hide", out.op(f"Greater ({column}, {row})")))
    if block.positions == "bias of distance":
        distance = out.op(f"Cast <to = 1> ({out.op(f'Sub ({column}, {row})')})")
        slopes = out.constant(np.array([0.5, 0.25, 0.125, 0.1], np.float32).reshape(4, 1, 1))
        terms.append(("add", out.op(f"Mul ({slopes}, {distance})")))
    return terms


def _unsqueeze(out: _Writer, value: str, *axes: int) -> str:
    return out.op(f"Unsqueeze ({value}, {out.integers(*axes)})")


def _layer(out: _Writer, hidden: str, bias: list[tuple[str, str]], places: str) -> str:
    for part in (functools.partial(_attention, bias=bias, places=places), _feed_forward):
        if out.block.norm_first:
            hidden = out.op(f"Add ({hidden}, {part(out, _norm(out, hidden))})")
        else:
            hidden = _norm(out, out.op(f"Add ({part(out, hidden)}, {hidden})"))
    return hidden


def _norm(out: _Writer, x: str) -> str:
    scale, shift = out.weight(WIDTH), out.weight(WIDTH)
    if out.block.norm == "layer" and out.block.opset >= 17:
        return out.op(f"LayerNormalization <epsilon = 1e-5> ({x}, {scale}, {shift})")
    centred = x
    if out.block.norm != "root mean square in primitives":
        centred = out.op(f"Sub ({x}, {_mean(out, x)})")
    square = out.op(f"Pow ({centred}, {out.number(2)})")
    spread = out.op(f"Sqrt ({out.op(f'Add ({_mean(out, square)}, {out.number(1e-5)})')})")
    scaled = out.op(f"Mul ({out.op(f'Div ({centred}, {spread})')}, {scale})")
    if out.block.norm == "root mean square in primitives":
        return scaled
    return out.op(f"Add ({scaled}, {shift})")


def _mean(out: _Writer, x: str) -> str:
    if out.block.opset >= 18:
        return out.op(f"ReduceMean <keepdims = 1> ({x}, {out.integers(-1)})")
    return out.op(f"ReduceMean <axes = [-1], keepdims = 1> ({x})")


def _dense(out: _Writer, x: str, inside: int, outside: int) -> str:
    product = out.op(f"MatMul ({x}, {out.weight(inside, outside)})")
    if out.block.dense == "no bias":
        return product
    operands = [product, out.weight(outside)]
    return out.op(f"Add ({', '.join(operands[:: -1 if out.block.dense == 'bias first' else 1])})")


def _split(out: _Writer, x: str, heads: int) -> str:
    if out.block.heads == "by zeros":
        target = out.integers(0, 0, heads, HEAD)
    else:
        target = out.op(f"Concat <axis = 0> (sizes, {out.integers(heads, HEAD)})")
    return out.op(f"Transpose <perm = [0, 2, 1, 3]> ({out.op(f'Reshape ({x}, {target})')})")


def _attention(out: _Writer, x: str, bias: list[tuple[str, str]], places: str) -> str:
    block, groups = out.block, out.block.key_heads
    query = _split(out, _dense(out, x, WIDTH, WIDTH), HEADS)
    key, value = (_split(out, _dense(out, x, WIDTH, groups * HEAD), groups) for _ in range(2))
    if block.positions == "rotary":
        query, key = _rotated(out, query, places), _rotated(out, key, places)
    if groups not in (1, HEADS):
        key, value = _repeated(out, key), _repeated(out, value)
    factor = HEAD**-0.5
    if block.scale == "on the query":
        query = out.op(f"Mul ({query}, {out.number(factor)})")
    elif block.scale == "on both":
        query, key = (out.op(f"Mul ({each}, {out.number(factor**0.5)})") for each in (query, key))
    scores = out.op(f"MatMul ({query}, {out.op(f'Transpose <perm = [0, 1, 3, 2]> ({key})')})")
    if block.scale == "multiplied":
        scores = out.op(f"Mul ({scores}, {out.number(factor)})")
    elif block.scale == "divided":
        scores = out.op(f"Div ({scores}, {out.number(1 / factor)})")
    for how, term in bias:
        lowest = out.number(float(np.finfo(np.float32).min))
        if how == "add":
            scores = out.op(f"Add ({scores}, {term})")
        else:
            chosen = [lowest, scores] if how == "hide" else [scores, lowest]
            scores = out.op(f"Where ({term}, {', '.join(chosen)})")
    context = out.op(f"MatMul ({out.op(f'Softmax <axis = -1> ({scores})')}, {value})")
    back = out.op(f"Transpose <perm = [0, 2, 1, 3]> ({context})")
    joined = out.op(f"Reshape ({back}, {out.integers(0, 0, WIDTH)})")
    return _dense(out, joined, WIDTH, WIDTH)


def _repeated(out: _Writer, x: str) -> str:
    groups = out.block.key_heads
    wide = _unsqueeze(out, x, 2)
    times = out.integers(1, 1, HEADS // groups, 1, 1)
    again = out.op(f"Expand ({wide}, {times})")
    rows = out.op(f"Slice (sizes, {out.integers(0)}, {out.integers(1)})")
    length = out.op(f"Slice (sizes, {out.integers(1)}, {out.integers(2)})")
    heads, head = out.integers(HEADS), out.integers(HEAD)
    target = out.op(f"Concat <axis = 0> ({rows}, {heads}, {length}, {head})")
    return out.op(f"Reshape ({again}, {target})")


def _rotated(out: _Writer, x: str, places: str) -> str:
    """Rotary positions, the halves of each head turned against each other."""
    frequencies = out.constant(np.array([1.0, 0.1, 1.0, 0.1], np.float32))
    angles = out.op(
        f"Mul ({_unsqueeze(out, out.op(f'Cast <to = 1> ({places})'), 1)}, {frequencies})"
    )
    ends = [out.integers(n) for n in (0, HEAD // 2, HEAD, 3)]
    first = out.op(f"Slice ({x}, {ends[0]}, {ends[1]}, {ends[3]})")
    second = out.op(f"Slice ({x}, {ends[1]}, {ends[2]}, {ends[3]})")
    turned = out.op(f"Concat <axis = -1> ({out.op(f'Neg ({second})')}, {first})")
    cosines, sines = out.op(f"Cos ({angles})"), out.op(f"Sin ({angles})")
    plain = out.op(f"Mul ({x}, {cosines})")
    return out.op(f"Add ({plain}, {out.op(f'Mul ({turned}, {sines})')})")


def _feed_forward(out: _Writer, x: str) -> str:
    return _dense(out, _activated(out, _dense(out, x, WIDTH, 2 * WIDTH)), 2 * WIDTH, WIDTH)


def _activated(out: _Writer, x: str) -> str:
    kind, half, one = out.block.activation, out.number(0.5), out.number(1)
    if kind == "relu":
        return out.op(f"Relu ({x})")
    if kind == "silu":
        return out.op(f"Mul ({x}, {out.op(f'Sigmoid ({x})')})")
    if kind == "gelu":
        inner = out.op(f"Erf ({out.op(f'Div ({x}, {out.number(2**0.5)})')})")
    else:
        cube = out.op(f"Mul ({out.op(f'Pow ({x}, {out.number(3)})')}, {out.number(0.044715)})")
        sum_ = out.op(f"Add ({x}, {cube})")
        inner = out.op(f"Tanh ({out.op(f'Mul ({sum_}, {out.number((2 / np.pi) ** 0.5)})')})")
    both = out.op(f"Mul ({x}, {out.op(f'Add ({inner}, {one})')})")
    return out.op(f"Mul ({both}, {half})")


def _result(out: _Writer, hidden: str) -> None:
    block = out.block
    if block.result == "hidden":
        out.lines.append(f"y = Identity ({hidden})")
    elif block.result == "first token":
        out.lines.append(f"y = Gather <axis = 1> ({hidden}, {out.constant(np.array(0, np.int64))})")
    elif block.result == "mean":
        out.lines.append(f"y = {_reduced(out, 'ReduceMean', hidden)}")
    else:
        seen = _unsqueeze(out, out.op("Cast <to = 1> (attention_mask)"), 2)
        total = out.op(_reduced(out, "ReduceSum", out.op(f"Mul ({hidden}, {seen})")))
        count = out.op(f"Max ({out.op(_reduced(out, 'ReduceSum', seen))}, {out.number(1e-9)})")
        out.lines.append(f"y = Div ({total}, {count})")


def _reduced(out: _Writer, op_type: str, x: str) -> str:
    if op_type == "ReduceSum" or out.block.opset >= 18:
        return f"{op_type} <keepdims = 0> ({x}, {out.integers(1)})"
    return f"{op_type} <axes = [1], keepdims = 0> ({x})"
