"""The command ``dechaff explain``: what fired, and what stopped the rest."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from .command_line_options import debug_option, isolation_options

if TYPE_CHECKING:
    from dechaff.passes import Miss, PassRecord

_NOTHING_NEAR = "nothing in the graph comes near its patterns"


@click.command()
@click.argument("source", metavar="IN.onnx")
@click.option("--pass", "names", multiple=True, metavar="PASS", help="Tell of this pass only.")
@click.option("--passes", default="default", metavar="LIST", help="Pass list to run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@isolation_options
@debug_option
def explain(source: str, names: tuple[str, ...], passes: str, as_json: bool) -> None:
    """Show which rewrites a model gets, and for the others the condition that failed and where.

    Nothing is written and nothing runs.

    Example: dechaff explain model.onnx --pass fuse-attention
    """
    from dechaff.passes import parse_pass_list, pass_by_name, run_passes

    from .model_import import import_model

    chosen = parse_pass_list(passes)
    wanted = {pass_by_name(name).name for name in names}
    for name in sorted(wanted - {step.name for step in chosen}):
        raise click.UsageError(f"--pass {name}: the pass list leaves this pass out.")
    _, records = run_passes(import_model(source), chosen)
    told = [r for r in records if not wanted or r.name.partition("{")[0] in wanted]
    if as_json:
        click.echo(json.dumps([_data(record) for record in told], indent=2))
    else:
        click.echo("\n".join(line for record in told for line in _lines(record)))


def _lines(record: PassRecord) -> Iterator[str]:
    fired = Counter(rewrite.rule for rewrite in record.rewrites)
    yield f"{record.name}: {_fired_text(fired) if fired else 'changed nothing'}"
    for note in record.notes:
        yield f"  note: {note.removeprefix(f'{record.name}: ')}"
    for rule, misses in _by_rule(record.misses).items():
        for miss in misses:
            yield f"  {rule} did not apply: {miss.reason}"
            yield f"    at {miss.node}"
    if not (fired or record.notes or record.misses):
        yield f"  {_NOTHING_NEAR}"


def _fired_text(fired: Counter[str]) -> str:
    return ", ".join(f"{rule} x{count}" for rule, count in fired.items())


def _by_rule(misses: Sequence[Miss]) -> dict[str, list[Miss]]:
    found: dict[str, list[Miss]] = {}
    for miss in misses:
        found.setdefault(miss.rule, []).append(miss)
    return found


def _data(record: PassRecord) -> dict[str, Any]:
    return {
        "pass": record.name,
        "rewrites": [dataclasses.asdict(rewrite) for rewrite in record.rewrites],
        "near_misses": [dataclasses.asdict(miss) for miss in record.misses],
        "notes": list(record.notes),
    }
