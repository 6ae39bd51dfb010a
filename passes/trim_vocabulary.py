"""The pass ``trim-vocabulary``: the tables keep the tokens that a corpus uses."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dechaff.ir import Module, UsageError, Vocabulary, constant_value

from .pass_base import Numerics, Pass
from .rewriter import GraphBuilder, Rewriter
from .vocabulary_tables import Projection, Table, find_projections, find_table

_RULE = "trim-vocabulary"
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclasses.dataclass(frozen=True)
class TrimVocabularyOptions:
    """Options of ``trim-vocabulary``.

    Attributes:
        keep: ids to keep beside the corpus's and the special tokens, as in ``0-999+30521``.
        unknown: id of the token that stands for those that go; -1 is the tokenizer's own.
        table: name of the embedding, where several have as many rows.
    """

    keep: str = ""
    unknown: int = -1
    table: str = ""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: one is out of range.
        """
        if self.unknown < -1:
            raise ValueError(f"unknown expects a token id, or -1, got {self.unknown}")
        self.kept_ids()

    def kept_ids(self) -> frozenset[int]:
        """The ids that ``keep`` names.

        Raises:
            ValueError: it cannot be read.
        """
        ids: set[int] = set()
        for part in filter(None, self.keep.split("+")):
            match = _RANGE.fullmatch(part.strip())
            first = int(match[1]) if match else 0
            last = int(match[2] or first) if match else -1
            if last < first:
                raise ValueError(f"keep expects ids as in 0-999+30521, got {part!r}")
            ids.update(range(first, last + 1))
        return frozenset(ids)


class TrimVocabulary(Pass):
    """Keep the rows of the embedding that a corpus uses, and the logits of these tokens.

    Kept are the tokens of the calibration data (all lines of a text), the tokenizer's special ones
    and those that options name (idT5, arXiv 2302.00856). The model still takes the tokenizer's
    ids: a small table gives each its new row, and that of the unknown token to those that went, so
    that ids which the graph compares or computes with keep their meaning. Logits have a column for
    each kept token; the map from old to new ids is written beside the model. Text of kept tokens
    gives the same numbers; for other text this is another function.

    Before::

        before (int64[B,S] ids) => (float[B,S,2] y) <float[4,2] table = {1, 2, 3, 4, 5, 6, 7, 8}>
        {
            y = Gather (table, ids)
        }

    After::

        after (int64[B,S] ids) => (float[B,S,2] y)
            <int32[4] new_ids = {0, 1, 0, 2}, float[3,2] kept = {1, 2, 3, 4, 7, 8}>
        {
            rows = Gather (new_ids, ids)
            y = Gather (kept, rows)
        }
    """

    name = "trim-vocabulary"
    numerics = Numerics.APPROXIMATE
    after = ("canonicalize", "fold-constants")
    options_type = TrimVocabularyOptions

    def apply(self, module: Module, rewriter: Rewriter) -> None:
        """One rewrite: the table and all that has a column for each of its rows."""
        if module.vocabulary is not None:
            rewriter.note(f"{_RULE}: the vocabulary has been trimmed already")
            return
        table = find_table(module, self.options.table, rewriter)
        projections = None if table is None else find_projections(module, table, rewriter)
        if table is None or projections is None:
            return
        vocabulary = self._vocabulary(module, table, projections, rewriter)
        gone = vocabulary.size - len(vocabulary.kept)
        if not gone:
            rewriter.note(f"{_RULE}: all {vocabulary.size} tokens are kept")
            return
        _trim(table, projections, vocabulary, rewriter)
        module.vocabulary = vocabulary
        rewriter.note(
            f"{_RULE}: {len(vocabulary.kept)} of {vocabulary.size} tokens are kept; the others "
            f"read the row of token {vocabulary.unknown}"
        )

    def _vocabulary(
        self, module: Module, table: Table, projections: Sequence[Projection], rewriter: Rewriter
    ) -> Vocabulary:
        """The tokens to keep."""
        kept, context = set(self.options.kept_ids()), rewriter.context
        data = context.calibration
        if data is None and not kept:
            data = context.calibration_for(self.name)
        tokens = None if data is None else data.tokens
        unknown = self.options.unknown
        if unknown < 0 and tokens is not None and tokens.unknown is not None:
            unknown = tokens.unknown
        if unknown < 0:
            raise UsageError(
                f"pass {self.name}: which token stands for those that go? give --tokenizer of one "
                f"that has an unknown token, or {self.name}{{unknown=ID}}"
            )
        if tokens is not None:
            # A tokenizer may know tokens that the model was never given rows for.
            kept |= {token for token in tokens.special if token < table.size}
            kept |= tokens.used
        kept |= table.constant_ids()
        computed = table.computed_ids()
        if data is not None and computed:
            for batch in data.walk(module).advance(computed):
                for ids in batch.values():
                    kept.update(np.unique(np.where(ids < 0, ids + table.size, ids)).tolist())
        kept.add(unknown)
        stray = sorted(token for token in kept if not 0 <= token < table.size)
        if stray:
            raise UsageError(
                f"pass {self.name}: there is no token {stray[0]}; the table "
                f"{table.value.name!r} has {table.size} rows"
            )
        outputs = tuple(item.output.name or "" for item in projections)
        return Vocabulary(table.size, tuple(sorted(kept)), unknown, table.inputs(), outputs)


def _trim(
    table: Table, projections: Sequence[Projection], vocabulary: Vocabulary, rewriter: Rewriter
) -> None:
    nodes = [*table.gathers, *(node for item in projections for node in item.path)]
    with rewriter.rewrite(_RULE, nodes) as builder:
        new_ids = builder.constant(vocabulary.new_ids(), "new_ids")
        rows = _kept(builder, table.value, vocabulary, 0)
        for gather in table.gathers:
            row = builder.op("Gather", [new_ids, gather.inputs[1]])
            builder.replace(gather.outputs[0], builder.op("Gather", [rows, row]))
        for item in projections:
            _trim_projection(item, table, rows, vocabulary, builder)


def _trim_projection(
    projection: Projection,
    table: Table,
    rows: ir.Value,
    vocabulary: Vocabulary,
    builder: GraphBuilder,
) -> None:
    """The nodes from the product to the output again, with the columns kept."""
    made: dict[ir.Value, ir.Value] = {table.value: rows}
    for node in projection.path:
        operands: list[ir.Value | None] = []
        for value in node.inputs:
            axis = projection.axes.get(value) if value is not None else None
            if value is not None and axis is not None and value not in made:
                made[value] = _kept(builder, value, vocabulary, axis)
            operands.append(None if value is None else made.get(value, value))
        attributes = {item.name: item.value for item in node.attributes.values()}
        made[node.outputs[0]] = builder.op(
            node.op_type, operands, attributes, domain=node.domain, name=node.name
        )
    builder.replace(projection.output, made[projection.output])


def _kept(builder: GraphBuilder, value: ir.Value, vocabulary: Vocabulary, axis: int) -> ir.Value:
    tensor = constant_value(value)
    assert tensor is not None  # only constants have been chosen
    array = np.take(tensor.numpy(), vocabulary.kept, axis=axis)
    return builder.tensor(ir.tensor(array, dtype=tensor.dtype), f"{value.name}_kept")
