"""``python -m benchmarks.generated_models``: random Transformer blocks through the default passes.

A seed gives a block: where its norms stand, how its mask, its heads, its positions and its
activation are made and spelled, and its opset. The optimized model is compared with the original.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence

from benchmarks.generated_blocks import Block, block_of, build
from benchmarks.measure import progress_bar
from dechaff.backends import lower
from dechaff.input_generation import generate_inputs
from dechaff.ir import DechaffError
from dechaff.model_import import import_model
from dechaff.passes import parse_pass_list, run_passes
from dechaff.reference import Reference
from dechaff.verification import verify_result, weakest_numerics

_RESULTS = pathlib.Path("docs/generated.jsonl")
_DONE, _WRONG = 0, 1


@dataclasses.dataclass(frozen=True)
class Finding:
    """What became of one generated model.

    Attributes:
        attentions: attentions known as such.
        packed: whether padding was removed.
        problem: what differs; None if the answers are the same.
        settled: what seemed to differ, where float64 shows that it is rounding alone; else empty.
    """

    attentions: int
    packed: bool
    problem: str | None
    settled: str = ""


def check(block: Block) -> Finding:
    """Optimize the block with the default passes, and compare for both targets."""
    module = import_model(build(block))
    reference = Reference(module.clone(), generate_inputs(module))
    optimized, records = run_passes(module, parse_pass_list("default"))
    names = [node.op_type for node in optimized.graph]
    problem, settled = None, ""
    for target in ("cpu", "portable"):
        try:
            lowered = lower(optimized, target)
            proof = verify_result(reference, lowered, weakest_numerics(records), "final")
            problem = problem or proof.problem or proof.reason
            settled = next((item.settled for item in proof.outputs if item.settled), settled)
        except DechaffError as error:
            problem = problem or str(error)
    packed = "Unpack" in names
    return Finding(sum("Attention" in name for name in names), packed, problem, settled)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the models of the first seeds; go on where an earlier run was stopped."""
    parser_ = argparse.ArgumentParser(prog="python -m benchmarks.generated_models")
    parser_.add_argument("--count", type=int, default=2000, help="how many seeds, from 0 on")
    parser_.add_argument("--results", type=pathlib.Path, default=_RESULTS, help="kept between runs")
    options = parser_.parse_args(arguments)
    known = dict(_read(options.results))
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with (
        options.results.open("a", encoding="utf-8") as file,
        progress_bar(options.count, "generated models") as advance,
    ):
        for seed in range(options.count):
            advance(f"seed {seed}")
            if seed not in known:
                known[seed] = check(block_of(seed))
                file.write(json.dumps({"seed": seed, **dataclasses.asdict(known[seed])}) + "\n")
                file.flush()
    chosen = {seed: known[seed] for seed in range(options.count)}
    wrong = {seed: found for seed, found in chosen.items() if found.problem is not None}
    for seed, found in wrong.items():
        print(f"seed {seed}: {block_of(seed)}: {found.problem}")
    attended = sum(f.attentions >= block_of(seed).layers for seed, f in chosen.items())
    packed = sum(found.packed for found in chosen.values())
    settled = [seed for seed, found in chosen.items() if found.settled]
    print(f"rounding alone, as float64 shows: {len(settled)}: seeds {settled}")
    print(
        f"{len(chosen)} models, seeds 0 to {options.count - 1}: {len(wrong)} mismatches; "
        f"every attention found in {attended}, padding removed in {packed}"
    )
    return _WRONG if wrong else _DONE


def _read(path: pathlib.Path) -> Iterator[tuple[int, Finding]]:
    if not path.exists():
        return
    for line in path.read_text("utf-8").splitlines():
        entry = json.loads(line)
        yield entry.pop("seed"), Finding(**entry)


if __name__ == "__main__":
    sys.exit(main())
