"""What the parts of a block that stay must do for those that go: least squares on activations.

A block ends in a product ``x @ W`` with a matrix whose rows belong to its parts, heads or inner
features. With the second moments of ``x`` on data, the best matrix without some of the rows is
known in closed form, and so is what each row is worth (structured optimal brain surgeon: ZipLM,
NeurIPS 2023, section 3; Optimal Brain Surgeon, NIPS 1992). Nothing is trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dechaff.ir import Module, constant_value

from .matching import only_consumer
from .pass_context import CalibrationData
from .residual_blocks import ResidualBlock
from .skip_unread_rows import read_alone
from .token_rows import Floats, token_rows

_DAMPING = 1e-3
"""Share of a second moment that is added to it: data of few tokens tells little."""
_TINY = 1e-9
"""The same of the mean, for a feature that is always zero."""
_ROUNDS = 32
"""In how many rounds the parts are put in order; in each, what the others are worth is renewed."""


@dataclasses.dataclass(frozen=True)
class Moments:
    """Second moments of what a block's last product reads, and of a one beside it.

    Attributes:
        matrix: float64[width + 1, width + 1], symmetric; sums over the tokens of the data.
        energy: squared distance from its mean, over all tokens, of the sum that the block adds to.
    """

    matrix: Floats
    energy: float

    @property
    def damped(self) -> Floats:
        """The matrix with a little more on its diagonal, by each feature's own measure."""
        return np.asarray(self.matrix + np.diag(damping(self.matrix)))

    def harm(self, squared_error: float) -> float:
        """What an error of the block's product, over all tokens, is to the sum it is added to."""
        return squared_error / self.energy if self.energy > 0 else 0.0


def damping(matrix: Floats) -> Floats:
    """What the diagonal of second moments gains, by each feature's own measure."""
    diagonal = np.diagonal(matrix)
    return np.asarray(_DAMPING * diagonal + _TINY * diagonal.mean())


def second_moments(
    module: Module, blocks: Sequence[ResidualBlock], calibration: CalibrationData
) -> dict[str, Moments]:
    """Moments by the blocks' names, over tokens that are no padding.

    Of a block of which one token of each sequence is read alone, as of a classifier's last layer,
    they are those of that token: what the block does to the others is nothing to the model.

    Args:
        module: the module whose blocks they are.
        blocks: attention and feed-forward blocks.
        calibration: inputs; some thousand tokens of them are looked at.
    """
    values = {block.name: value for block in blocks if (value := block.last.inputs[0])}
    joined = {block.name: block.addition.outputs[0] for block in blocks}
    alone = read_alone(module)
    positions = {
        value: alone[block.last]
        for block in blocks
        if block.last in alone and block.addition in alone
        for value in (values[block.name], joined[block.name])
    }
    sums: dict[str, Floats] = {}
    energies = {name: _Energy() for name in values}
    wanted = [*values.values(), *joined.values()]
    for rows in token_rows(module, wanted, calibration, positions):
        for name, value in values.items():
            if value not in rows:
                continue
            own = rows[value]
            sums[name] = sums.get(name, np.float32(0)) + own.T @ own
            energies[name].add(rows[joined[name]][:, :-1])
    return {
        name: Moments(total.astype(np.float64), energies[name].centred)
        for name, total in sums.items()
    }


class _Energy:
    """Squared distance of rows from their mean."""

    def __init__(self) -> None:
        self._count, self._squares = 0, 0.0
        self._sum: Floats = np.zeros(1)

    def add(self, rows: Floats) -> None:
        self._count += len(rows)
        self._squares += float(np.sum(rows**2, dtype=np.float64))
        self._sum = self._sum + rows.sum(axis=0, dtype=np.float64)

    @property
    def centred(self) -> float:
        return self._squares - float(np.sum(self._sum**2)) / max(1, self._count)


@dataclasses.dataclass(frozen=True)
class Order:
    """Parts of a block in the order in which they go.

    Attributes:
        parts: all but some last ones, those first that the others can best make up for.
        errors: squared error of the product over all tokens, with so many of them gone, and one.
    """

    parts: Sequence[int]
    errors: Sequence[float]


def order_of_least_harm(block: ResidualBlock, moments: Moments, num_parts: int) -> Order:
    """In which order parts go, and what each does.

    Args:
        block: the block.
        moments: of what its last product reads.
        num_parts: heads of keys and values, or inner features.
    """
    weight = _matrix(block)
    size = len(weight) // num_parts
    inverse = np.linalg.inv(moments.damped)
    rows = np.concatenate([weight, np.zeros((1, weight.shape[1]))])
    alive = list(range(num_parts))
    order, errors, error = list[int](), list[float](), 0.0
    step = max(1, num_parts // _ROUNDS)
    while len(alive) > step:
        worth = _worth(rows, inverse, alive, size)
        gone = [alive[place] for place in np.argsort(worth, kind="stable")[:step]]
        order += gone
        alive = [part for part in alive if part not in set(gone)]
        error += _eliminate(rows, inverse, _features(gone, size))
        errors += [error] * len(gone)
    return Order(order, errors)


def _worth(rows: Floats, inverse: Floats, parts: Sequence[int], size: int) -> Floats:
    """How much the squared error of the product grows where one part goes, for each part."""
    if size == 1:
        chosen = np.asarray(parts)
        return np.asarray((rows[chosen] ** 2).sum(axis=1) / inverse[chosen, chosen])
    found = []
    for part in parts:
        own = slice(part * size, (part + 1) * size)
        found.append(np.sum(rows[own] * np.linalg.solve(inverse[own, own], rows[own])))
    return np.array(found)


def _eliminate(rows: Floats, inverse: Floats, gone: Floats) -> float:
    """Take rows out of the problem, in place: the others make up for them; the error that stays."""
    across = inverse[:, gone]
    solved = np.linalg.solve(inverse[np.ix_(gone, gone)], np.hstack([rows[gone], across.T]))
    width = rows.shape[1]
    error = float(np.sum(rows[gone] * solved[:, :width]))
    rows -= across @ solved[:, :width]
    inverse -= across @ solved[:, width:]
    rows[gone] = 0
    inverse[gone] = 0
    inverse[:, gone] = 0
    inverse[gone, gone] = 1
    return error


def _features(parts: Sequence[int], size: int) -> Floats:
    return np.concatenate([np.arange(part * size, (part + 1) * size) for part in parts])


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What the last product of a block multiplies with once rows of its matrix are gone.

    Attributes:
        weight: float[kept, width].
        shift: float[width], to be added to the product.
    """

    weight: Floats
    shift: Floats


def reconstruct(
    block: ResidualBlock, moments: Moments, kept: Sequence[int], num_parts: int
) -> Reconstruction:
    """The matrix of the parts that stay which comes nearest to the whole product on the data.

    Args:
        block: the block.
        moments: of what its last product reads.
        kept: the parts that stay, ascending.
        num_parts: all of them.
    """
    weight = _matrix(block)
    stay = _features(kept, len(weight) // num_parts)
    with_one = np.concatenate([stay, [len(weight)]]).astype(np.int64)
    damped = moments.damped
    # The damping pulls towards the old rows, so that without data, or with all parts, they stay.
    product = damped[np.ix_(with_one, np.arange(len(weight)))] @ weight
    solved = np.linalg.solve(damped[np.ix_(with_one, with_one)], product)
    return Reconstruction(solved[:-1], solved[-1])


def error_of_mean(block: ResidualBlock, moments: Moments) -> float:
    """Squared error of a block's product, over all tokens, where its mean stands in its place."""
    sums, weight = moments.matrix[-1], _matrix(block)
    centred = moments.matrix[:-1, :-1] - np.outer(sums[:-1], sums[:-1]) / max(sums[-1], 1.0)
    return float(np.sum(weight * (centred @ weight)))


def mean_output(block: ResidualBlock, moments: Moments) -> Floats | None:
    """What a block adds in the mean over the data, float[width]; None if more than a bias follows.

    Args:
        block: the block.
        moments: of what its last product reads.
    """
    sums = moments.matrix[-1]
    mean = sums[:-1] / sums[-1] @ _matrix(block)
    behind = only_consumer(block.last.outputs[0])
    while behind is not None and behind is not block.addition:
        constants = [constant_value(operand) for operand in behind.inputs]
        bias = next((tensor for tensor in constants if tensor is not None), None)
        if behind.op_type != "Add" or bias is None:
            return None
        mean = mean + bias.numpy()
        behind = only_consumer(behind.outputs[0])
    return np.asarray(mean)


def _matrix(block: ResidualBlock) -> Floats:
    tensor = constant_value(block.last.inputs[1])
    assert tensor is not None  # a block ends in a dense node
    return tensor.numpy().astype(np.float64)
