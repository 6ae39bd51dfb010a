"""``python -m benchmarks.kills``: kill ``dechaff optimize`` at random moments.

Models that differ in the value of all their weights take turns in being optimized into one target
with external data. Each process is killed: at a moment drawn from its usual time, or after its
first file has appeared. After each kill the target must be one of the models as a whole.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx_ir as ir

import dechaff

_VALUES = (1, 2, 3)


@dataclasses.dataclass
class Outcome:
    """What was left after the kills.

    Attributes:
        killed: runs that were killed before they were done.
        finished: runs that were faster.
        replaced: killed runs after which the target was the new model.
        corrupt: what was wrong, for each run that left something else than a whole model.
    """

    killed: int = 0
    finished: int = 0
    replaced: int = 0
    corrupt: list[str] = dataclasses.field(default_factory=list)


def write_filled(path: pathlib.Path, value: float, size: int) -> None:
    """Write a model of two square matrices in which every weight is ``value``."""
    x, y, z = (ir.val(name, ir.DataType.FLOAT, ["B", size]) for name in "xyz")
    tensors = [np.full((size, size), value, np.float32) for _ in range(2)]
    weights = [
        ir.Value(name=name, const_value=ir.tensor(tensor, name=name))
        for name, tensor in zip(("weight", "other"), tensors, strict=True)
    ]
    nodes = [
        ir.node("MatMul", [x, weights[0]], outputs=[y]),
        ir.node("MatMul", [y, weights[1]], outputs=[z]),
    ]
    graph = ir.Graph(
        [x], [z], nodes=nodes, initializers=weights, opset_imports={"": 23}, name="filled"
    )
    ir.save(ir.Model(graph, ir_version=10), path)


def value_of(path: pathlib.Path) -> float:
    """The value that all weights of a model have.

    Raises:
        ValueError: they differ, or there are none.
        DechaffError: the model cannot be read.
    """
    found: set[float] = set()
    for value in dechaff.load(path).module.graph.initializers.values():
        if value.const_value is not None:
            found |= set(np.unique(value.const_value.numpy()).tolist())
    if len(found) != 1:
        raise ValueError(f"weights of {sorted(found)}")
    return float(found.pop())


def kill_at_random(folder: pathlib.Path, kills: int, size: int, seed: int = 0) -> Outcome:
    """Run and kill ``dechaff optimize`` in a folder; see the module."""
    generator, outcome = random.Random(seed), Outcome()
    sources = {value: folder / f"in-{value}.onnx" for value in _VALUES}
    for value, path in sources.items():
        write_filled(path, value, size)
    place = folder / "out"
    place.mkdir()
    target = place / "out.onnx"
    started = time.monotonic()
    subprocess.run(_command(sources[1], target, generator), check=True)
    usual, current = time.monotonic() - started, 1.0
    while outcome.killed < kills:
        wanted = generator.choice([value for value in _VALUES if value != current])
        is_killed = _run_and_kill(
            _command(sources[wanted], target, generator), place, usual, generator
        )
        try:
            left = value_of(target)
        except (ValueError, dechaff.DechaffError) as error:
            outcome.corrupt.append(str(error))
            left = -1
        if left not in (current, wanted):
            outcome.corrupt.append(f"{current} was to become {wanted}, found {left}")
        outcome.killed += is_killed
        outcome.finished += not is_killed
        outcome.replaced += is_killed and left == wanted
        current = left
    return outcome


def _command(source: pathlib.Path, target: pathlib.Path, generator: random.Random) -> list[str]:
    isolation = generator.choice(["--isolate", "--no-isolate"])
    words = ["optimize", str(source), "-o", str(target), "--save-as-external-data", "-q", isolation]
    return [sys.executable, "-m", "dechaff", *words, "--verify", "off"]


def _run_and_kill(
    command: list[str], place: pathlib.Path, usual: float, generator: random.Random
) -> bool:
    """Whether the process was killed before it ended."""
    before = set(place.iterdir())
    # A pipe ends when the last process that holds it does, the child of the killed one too.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        if generator.random() < 0.25:
            time.sleep(generator.uniform(0, usual))
        else:
            while process.poll() is None and set(place.iterdir()) <= before:
                time.sleep(0.0005)
            time.sleep(generator.uniform(0, 0.1 * usual))
        process.kill()
        process.communicate()
    return process.returncode < 0


def main() -> None:
    """Print what was left; end in 1 if anything was corrupt."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.kills")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--size", type=int, default=2000, help="rows of the two square weights")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        outcome = kill_at_random(pathlib.Path(name), given.kills, given.size, given.seed)
    print(
        f"{outcome.killed} kills ({outcome.replaced} after the output was in place, "
        f"{outcome.finished} runs were faster): {len(outcome.corrupt)} corrupt outputs"
    )
    print(*outcome.corrupt, sep="\n", end="")
    sys.exit(bool(outcome.corrupt))


if __name__ == "__main__":
    main()
