"""Early exit: a row leaves a stack of layers as soon as its answer is good enough."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, UsageError

from .exits.criteria import CRITERIA, NEVER
from .exits.exit_builder import ExitBuilder, ExitPlan
from .exits.light_heads import LightHead, load_heads
from .exits.row_flow import RowFlow
from .exits.skip_normalizations import split_skip_normalizations
from .exits.stacks import Stack, find_stacks
from .padding.padding_mask import masked_attentions, padding_mask
from .pass_base import Numerics, Pass
from .rewriter import GraphBuilder, Rewriter


@dataclasses.dataclass(frozen=True)
class EarlyExitOptions:
    """Options of ``early-exit``.

    Attributes:
        layers: after which layers rows may leave, counted from 1, such as ``2+4``; ``all``.
        criterion: ``similarity``, ``entropy``, ``gap`` or ``patience``.
        threshold: a number for all exits or one for each, such as ``0.1+0.2``; ``never``.
        stack: name of the stack, such as ``encoder``; ``all``.
        heads: ``own``, the model's own head, or a file of light heads, one for each layer, as
            ``dechaff.fit_exit_heads`` writes it.
        output: the graph output that entropy, gap and patience look at; found where it is clear.
    """

    layers: str = "all"
    criterion: str = "similarity"
    threshold: str = "never"
    stack: str = "all"
    heads: str = "own"
    output: str = ""

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(f"criterion expects {', '.join(CRITERIA)}, got {self.criterion!r}")
        _numbers(self.layers, "all", "layers")
        _numbers(self.threshold, "never", "threshold")

    @property
    def chosen_layers(self) -> tuple[int, ...] | None:
        """The layers asked for; None for all."""
        numbers = _numbers(self.layers, "all", "layers")
        return None if numbers is None else tuple(sorted({int(number) for number in numbers}))

    def thresholds(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """float32[count], the default thresholds.

        Raises:
            UsageError: there are more or fewer thresholds than exits.
        """
        numbers = _numbers(self.threshold, "never", "threshold") or (NEVER[self.criterion],)
        if len(numbers) not in (1, count):
            raise UsageError(f"early-exit: got {len(numbers)} thresholds for {count} exits")
        return np.full(count, numbers, np.float32)


def _numbers(text: str, word: str, option: str) -> tuple[float, ...] | None:
    if str(text) == word:
        return None
    try:
        return tuple(float(part) for part in str(text).split("+"))
    except ValueError:
        raise ValueError(
            f"{option} expects {word!r} or numbers as in '2+4', got {text!r}"
        ) from None


class EarlyExit(Pass):
    """Let rows leave a stack of layers early, each by itself.

    After each chosen layer a test decides for each row whether its answer is good enough. A row
    that leaves keeps its state, and skips the other layers: what reads the state after the last
    layer, the model's own head among it, reads the state with which the row left. The layers
    between two exits stand in a branch that runs for the rows that go on, packed or padded, if
    there are any. With a threshold that is never reached, the results are those of the model, to
    the bit; no row's result depends on the other rows of the batch.

    Tests are ``similarity`` (the cosine of the states before and after a layer, over the row's
    tokens, is above the threshold: MuE, CVPR 2023), ``entropy`` of the answer below it (DeeBERT,
    ACL 2020), ``gap`` between the two largest probabilities above it (CALM, NeurIPS 2022), and
    ``patience``, so many exits in a row with the same answer (PABEE, NeurIPS 2020). They read the
    thresholds from a graph input, float[number of exits], with the option as its default: a caller
    may give others with each batch. A light head, where a file of them is given, answers for the
    rows that leave at its layer.

    Before::

        before (float[B,S,4] x) => (float[B,S,4] y) <float[4] g = {1, 2, 3, 4}>
        {
            h0 = LayerNormalization (x, g)
            c1 = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (h0, h0, h0)
            r1 = Add (c1, h0)
            h1 = LayerNormalization (r1, g)
            c2 = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (h1, h1, h1)
            r2 = Add (c2, h1)
            y = LayerNormalization (r2, g)
        }

    After::

        after (float[B,S,4] x, float[1] exit_thresholds = {2}) => (float[B,S,4] y)
        <float[4] g = {1, 2, 3, 4}, bool[1,1] every_token = {1}, int64 first = {0},
         int64[1] flat = {-1}, int64 zero = {0}, int64[1] axes = {1}>
        {
            h0 = LayerNormalization (x, g)
            c1 = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (h0, h0, h0)
            r1 = Add (c1, h0)
            h1 = LayerNormalization (r1, g)
            threshold = Gather <axis = 0> (exit_thresholds, first)
            similarity = dechaff.RowSimilarity (h1, h0, every_token)
            leaves = Greater (similarity, threshold)
            goes_on = Not (leaves)
            found = NonZero (goes_on)
            rows = Reshape (found, flat)
            count = Size (rows)
            anyone = Greater (count, zero)
            y = If (anyone) <
                then_branch = rows_go_on () => (float[B,S,4] merged) {
                    h = Gather <axis = 0> (h1, rows)
                    c = Attention <q_num_heads = 2, kv_num_heads = 2, scale = 0.5> (h, h, h)
                    r = Add (c, h)
                    own = LayerNormalization (r, g)
                    places = Unsqueeze (rows, axes)
                    merged = ScatterND (h1, places, own)
                },
                else_branch = no_row_left () => (float[B,S,4] unchanged) {
                    unchanged = Identity (h1)
                }
            >
        }
    """

    name = "early-exit"
    numerics = Numerics.APPROXIMATE
    after = ("fuse-attention", "remove-padding", "fold-attention-bias")
    options_type = EarlyExitOptions

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """Find the stacks, and build the exits of those asked for."""
        split_skip_normalizations(module, rewriter)
        flow = RowFlow(module)
        for stack in find_stacks(module.graph, rewriter):
            if self.options.stack in ("all", stack.name):
                self._insert(stack, flow, module, rewriter)

    def _insert(self, stack: Stack, flow: RowFlow, module: Module, rewriter: Rewriter) -> None:
        reason = self._reason_against(stack, flow)
        if reason is not None:
            rewriter.miss(self.name, stack.attentions[0], reason)
            return
        logits = answer_of(module.graph, flow, stack, self.options.output)
        needs_answer = self.options.criterion != "similarity" or self.options.heads != "own"
        if logits is None and needs_answer:
            names = ", ".join(value.name or "" for value in module.graph.outputs)
            reason = f"which output is the answer is not clear: name one, output=..., of {names}"
            rewriter.miss(self.name, stack.attentions[-1], reason)
            return
        made = [boundary.producer() for boundary in stack.boundaries]
        with rewriter.rewrite(self.name, [node for node in made if node is not None]) as builder:
            plan = self._plan(stack, logits, module, builder)
            ExitBuilder(plan, flow, rewriter).run(builder)
        rewriter.note(
            f"early-exit: rows may leave {stack.name or 'the model'} after layer "
            f"{', '.join(map(str, plan.layers))} of {len(stack.boundaries)} by "
            f"{self.options.criterion}; the thresholds are the input {plan.thresholds.name!r}"
        )

    def _plan(
        self, stack: Stack, logits: ir.Value | None, module: Module, builder: GraphBuilder
    ) -> ExitPlan:
        layers = self._layers(stack)
        return ExitPlan(
            stack,
            layers,
            self.options.criterion,
            _threshold_input(stack, self.options.thresholds(len(layers)), module),
            *token_layout(stack, builder),
            logits,
            self._heads(layers),
        )

    def _heads(self, layers: tuple[int, ...]) -> dict[int, LightHead] | None:
        if self.options.heads == "own":
            return None
        heads = load_heads(self.options.heads)
        missing = [layer for layer in layers if layer not in heads]
        if missing:
            raise UsageError(
                f"{self.options.heads} has heads for layers {', '.join(map(str, sorted(heads)))}, "
                f"and none for layer {missing[0]}"
            )
        return heads

    def _layers(self, stack: Stack) -> tuple[int, ...]:
        first = 2 if self.options.criterion == "similarity" and stack.entry is None else 1
        possible = range(first, len(stack.boundaries))
        chosen = self.options.chosen_layers
        return tuple(possible if chosen is None else (k for k in chosen if k in possible))

    def _reason_against(self, stack: Stack, flow: RowFlow) -> str | None:
        if flow.batch is None:
            return "the batch size is fixed: export the model with an open first dimension"
        if not self._layers(stack):
            return f"no exit asked for lies inside its {len(stack.boundaries)} layers"
        return None


def token_layout(stack: Stack, builder: GraphBuilder) -> tuple[ir.Value, ir.Value | None]:
    """Which tokens count, bool[B, S], and where packed ones lie, int64[T]."""
    if stack.packed:
        starts = stack.attentions[0].inputs[3]
        layout = None if starts is None else starts.producer()
        if layout is None or layout.inputs[0] is None:
            raise ValueError("packed attention without a TokenLayout")
        return layout.inputs[0], layout.outputs[0]
    mask = padding_mask(masked_attentions(stack.attentions))
    if mask is None:
        return builder.constant(np.ones((1, 1), np.bool_), "every_token"), None
    if mask.dtype is ir.DataType.BOOL:
        return mask, None
    return builder.op("Cast", [mask], {"to": int(ir.DataType.BOOL)}), None


def _threshold_input(
    stack: Stack, defaults: np.ndarray[tuple[int], np.dtype[np.float32]], module: Module
) -> ir.Value:
    """A graph input with a default."""
    taken = {value.name for value in module.graph.inputs}
    name = "_".join(filter(None, (stack.name, "exit_thresholds")))
    while name in taken:
        name += "_again"
    value = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape([len(defaults)]),
        const_value=ir.tensor(defaults, name=name),
    )
    module.graph.register_initializer(value)
    module.graph.inputs.append(value)
    return value


def answer_of(graph: ir.Graph, flow: RowFlow, stack: Stack, name: str) -> ir.Value | None:
    """The output that answers: the one named, the only one behind the stack, or ``logits``."""
    behind = flow.behind(stack.boundaries[-1])
    outputs = [value for value in graph.outputs if value in behind]
    wanted = [value for value in outputs if value.name == (name or "logits")]
    if wanted or name:
        return wanted[0] if wanted else None
    return outputs[0] if len(outputs) == 1 else None
