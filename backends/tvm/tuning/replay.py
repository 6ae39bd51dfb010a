"""A schedule found at static sizes, applied to the kernel with symbolic sizes.

MetaSchedule records a schedule as a trace: a program over schedule primitives. Its text is read as
data and interpreted, so that nothing in a log is executed as Python. A loop of symbolic length
takes the recorded tiles but for the outermost, which becomes as long as the size demands; TVM
guards the last, incomplete tile.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from tvm import s_tir, tirx

_DECIDED = "sample_perfect_tile"

_PRIMITIVES = frozenset(
    {
        "add_unit_loop", "annotate", "bind", "blockize", "cache_read", "cache_write",
        "compute_at", "compute_inline", "decompose_reduction", "enter_postproc", "fuse",
        "get_child_blocks", "get_consumers", "get_loops", "get_output_blocks", "get_producers",
        "get_sblock", "pad_einsum", "parallel", "reindex", "reorder", "reorder_block_iter_var",
        "reverse_compute_at", "reverse_compute_inline", "rfactor", "sample_categorical",
        "sample_compute_location", "set_scope", "split", "storage_align", "tensorize",
        "transform_block_layout", "transform_layout", "unannotate", "unroll", "vectorize",
    }
)  # fmt: skip
"""What a trace may call."""


class ReplayError(Exception):
    """The trace does not fit the kernel."""


def replay(trace: Any, module: Any) -> Any:
    """The module's function ``main`` under the schedule of a trace.

    Raises:
        ReplayError: a primitive of the trace is unknown here, or does not apply.
    """
    schedule = s_tir.Schedule(module, debug_mask="none")
    names: dict[str, Any] = {}
    for statement in ast.parse("\n".join(trace.as_python())).body:
        try:
            _run(statement, schedule, names)
        except ReplayError:
            raise
        except Exception as error:  # TVM's schedule errors come in several types
            lines = str(error).strip().splitlines()
            raise ReplayError(lines[-1] if lines else type(error).__name__) from error
    return schedule.mod


def _run(statement: ast.stmt, schedule: Any, names: dict[str, Any]) -> None:
    if isinstance(statement, ast.Expr):
        _call(statement.value, schedule, names)
    elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        _bind(statement.targets[0], _call(statement.value, schedule, names), names)
    else:
        raise ReplayError(f"unexpected statement {ast.unparse(statement)}")


def _bind(target: ast.expr, value: Any, names: dict[str, Any]) -> None:
    if isinstance(target, ast.Name):
        names[target.id] = value
        return
    if not isinstance(target, ast.Tuple | ast.List):
        raise ReplayError(f"unexpected target {ast.unparse(target)}")
    for item, part in zip(target.elts, value, strict=True):
        _bind(item, part, names)


def _call(expression: ast.expr, schedule: Any, names: dict[str, Any]) -> Any:
    if (
        not isinstance(expression, ast.Call)
        or not isinstance(expression.func, ast.Attribute)
        or not isinstance(expression.func.value, ast.Name)
        or expression.func.value.id != "sch"
    ):
        raise ReplayError(f"unexpected expression {ast.unparse(expression)}")
    name = expression.func.attr
    args = [_value(argument, names) for argument in expression.args]
    options = {item.arg or "": _value(item.value, names) for item in expression.keywords}
    if name == _DECIDED:
        return _tiles(schedule, args, options)
    if name not in _PRIMITIVES:
        raise ReplayError(f"unknown primitive {name}")
    primitive: Callable[..., Any] = getattr(schedule, name)
    return primitive(*args, **options)


def _tiles(schedule: Any, args: list[Any], options: dict[str, Any]) -> Any:
    """The recorded tiles; of a symbolic loop all but the outermost."""
    loop = args[0] if args else options["loop"]
    decision = options.get("decision")
    if isinstance(schedule.get(loop).extent, tirx.IntImm) or decision is None:
        return schedule.sample_perfect_tile(*args, **options)
    return [None, *(int(size) for size in decision[1:])]


def _value(expression: ast.expr, names: dict[str, Any]) -> Any:
    """A literal, a name of the trace, or a list of them."""
    if isinstance(expression, ast.Name):
        if expression.id not in names:
            raise ReplayError(f"unknown name {expression.id}")
        return names[expression.id]
    if isinstance(expression, ast.List | ast.Tuple):
        return [_value(item, names) for item in expression.elts]
    try:
        return ast.literal_eval(expression)
    except ValueError as error:
        raise ReplayError(f"unexpected value {ast.unparse(expression)}") from error
