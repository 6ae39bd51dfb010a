"""Every Transformer family through TVM's code for the CPU, compared with the original.

``python -m benchmarks.compiled_coverage`` prints a line for each family, packed and dense, goes on
where it was stopped, and writes ``docs/compiled.md``. ``--families BERT,Llama`` picks some.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import pathlib
import tempfile
import time

from benchmarks.coverage.checking import capture
from benchmarks.coverage.families import FAMILIES, Family
from dechaff.backends.tvm import compile_module, resolve_target
from dechaff.input_generation import generate_inputs
from dechaff.ir import DechaffError
from dechaff.model_import import batches_of, example_cases
from dechaff.passes import parse_pass_list, run_passes
from dechaff.reference import Reference
from dechaff.verification import verify_result, weakest_numerics
from dechaff.versions import package_versions

PASS_LISTS = {"packed": "default", "dense": "default,-remove-padding"}
"""With padding removed where it can be, and with it kept."""

_RESULTS = pathlib.Path("build/compiled_coverage.jsonl")
_PAGE = pathlib.Path("docs/compiled.md")

_HEAD = """# Families through generated code

Written by `make compiled`: the small model of each family of [the coverage matrix](coverage.md),
optimized, compiled by TVM for `llvm` without a tuning log, and compared with the original in ONNX
Runtime on generated inputs (ragged lengths, one row, one token, a row of padding alone).
*packed* is the pass list `default`, *dense* is `default,-remove-padding`. An error is the largest
absolute one of all outputs and inputs. dechaff {dechaff}, TVM {tvm}, ONNX Runtime {onnxruntime}.

{equal} of {count} are equal within their tolerance.

| family | form | largest error | verdict |
|---|---|---|---|
"""


@dataclasses.dataclass(frozen=True)
class CompiledOutcome:
    """What became of one family.

    Attributes:
        family: its name.
        form: ``packed`` or ``dense``.
        max_abs_error: the largest over all outputs and inputs; None if nothing was compared.
        seconds: what lowering and compiling took.
        problem: what went wrong; empty if nothing did.
    """

    family: str
    form: str
    max_abs_error: float | None = None
    seconds: float = 0.0
    problem: str = ""


def check_family(
    family: Family, forms: tuple[str, ...] = tuple(PASS_LISTS)
) -> list[CompiledOutcome]:
    """Capture a family's small model, compile each form for ``llvm``, and compare the outputs."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            module, inputs = capture(family, "torch", pathlib.Path(folder))
        except Exception as error:  # anybody's code: the line tells what
            return [CompiledOutcome(family.name, form, problem=_line(error)) for form in forms]
    cases = example_cases(module, batches_of(inputs))
    reference = Reference(module.clone(), cases + generate_inputs(module))
    outcomes = []
    for form in forms:
        optimized, records = run_passes(module.clone(), parse_pass_list(PASS_LISTS[form]))
        outcome = CompiledOutcome(family.name, form)
        try:
            started = time.perf_counter()
            compiled = compile_module(optimized, resolve_target("llvm"))
            seconds = time.perf_counter() - started
            numerics = weakest_numerics(records)
            proof = verify_result(reference, optimized, numerics, "final", compiled=compiled)
            largest = max((figures.max_abs_error for figures in proof.outputs), default=None)
            problem = _line(proof.problem or proof.reason or "")
            outcome = dataclasses.replace(
                outcome, max_abs_error=largest, seconds=seconds, problem=problem
            )
        except DechaffError as error:
            outcome = dataclasses.replace(outcome, problem=_line(error))
        outcomes.append(outcome)
    return outcomes


def _line(problem: object) -> str:
    return " ".join(str(problem).split())[:240]


def main() -> None:
    """Check the families asked for, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", metavar="LIST", help="names, separated by commas")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args()
    chosen = set(options.families.split(",")) if options.families else None
    _RESULTS.parent.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        _RESULTS.unlink(missing_ok=True)
    done = _RESULTS.read_text().splitlines() if _RESULTS.exists() else []
    known = {json.loads(line)["family"] for line in done}
    for family in FAMILIES:  # a family is written when both forms are done
        if (chosen is not None and family.name not in chosen) or family.name in known:
            continue
        for outcome in check_family(family):
            error = "-" if outcome.max_abs_error is None else f"{outcome.max_abs_error:.1e}"
            verdict = outcome.problem or "equal"
            start = f"{outcome.family:16} {outcome.form:7} {error:>8}"
            print(f"{start} {outcome.seconds:5.1f} s {verdict}", flush=True)
            with _RESULTS.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
        _write_page()


def _write_page() -> None:
    """The table of all results so far, in the families' order."""
    lines = _RESULTS.read_text().splitlines()
    found = {(o.family, o.form): o for o in (CompiledOutcome(**json.loads(line)) for line in lines)}
    listed = [
        found[family.name, form]
        for family in FAMILIES
        for form in PASS_LISTS
        if (family.name, form) in found
    ]
    rows = []
    for outcome in listed:
        error = "" if outcome.max_abs_error is None else f"{outcome.max_abs_error:.1e}"
        verdict = (outcome.problem or "equal").replace("|", "\\|")
        rows.append(f"| {outcome.family} | {outcome.form} | {error} | {verdict} |\n")
    equal = sum(not outcome.problem for outcome in listed)
    head = _HEAD.format(
        equal=equal,
        count=len(listed),
        tvm=importlib.metadata.version("apache-tvm"),
        **package_versions(),
    )
    _PAGE.write_text(head + "".join(rows))


if __name__ == "__main__":
    main()
