"""The page's scripts on their own: formulas, orders and layers, against other means."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import sympy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

import dechaff
from dechaff.viewer.page import SCRIPTS

VIEWER = pathlib.Path(dechaff.__file__).parent / "viewer"
LONGEST_FILE = 300
NAMES = ["B", "S", "T"]


@pytest.fixture(scope="module")
def scripts(browser: Browser) -> Iterator[Page]:
    """A blank page that has every function of the viewer, and no viewer."""
    page = browser.new_page()
    page.set_content("<!doctype html>")
    sources = [(VIEWER / name).read_text("utf-8") for name in SCRIPTS if name != "main.js"]
    page.add_script_tag(content="\n".join(sources))
    yield page
    page.close()


def test_every_script_is_part_of_the_page_and_short() -> None:
    assert sorted(path.name for path in VIEWER.glob("*.js")) == sorted(SCRIPTS)
    lengths = {name: len((VIEWER / name).read_text("utf-8").splitlines()) for name in SCRIPTS}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def expressions() -> st.SearchStrategy[sympy.Expr]:
    symbols = st.sampled_from([sympy.Symbol(name, positive=True) for name in NAMES])
    leaves = symbols | st.integers(0, 4000).map(sympy.Integer)
    return st.recursive(
        leaves,
        lambda inner: (
            st.tuples(inner, inner).map(lambda pair: pair[0] + pair[1])
            | st.tuples(inner, inner).map(lambda pair: pair[0] * pair[1])
            | st.tuples(inner, inner).map(lambda pair: pair[0] - 3 * pair[1])
            | st.tuples(inner, inner).map(lambda pair: sympy.Max(*pair))
            | st.tuples(inner, st.integers(1, 9)).map(lambda pair: sympy.floor(pair[0] / pair[1]))
            | inner.map(lambda base: base**2)
        ),
        max_leaves=6,
    )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(expressions(), st.lists(st.integers(1, 50), min_size=3, max_size=3))
def test_formulas_have_the_value_that_sympy_gives(
    scripts: Page, expression: sympy.Expr, sizes: list[int]
) -> None:
    given_sizes = dict(zip(NAMES, sizes, strict=True))
    symbols = {sympy.Symbol(name, positive=True): size for name, size in given_sizes.items()}
    expected = float(expression.subs(symbols))
    found = scripts.evaluate(
        "([text, sizes]) => evaluateFormula(text, new Map(Object.entries(sizes)))",
        [str(expression), given_sizes],
    )
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("text", ["alert(1)", "B +", "B B", "(" * 5000, "B; C", "[1]", "x.y"])
def test_what_is_no_formula_has_no_value(scripts: Page, text: str) -> None:
    assert scripts.evaluate("text => String(evaluateFormula(text, new Map()))", text) == "NaN"


IDS = st.lists(st.sampled_from("abcdefghij"), unique=True)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(IDS, IDS)
def test_a_merged_order_holds_each_id_once_and_keeps_the_second(
    scripts: Page, before: list[str], after: list[str]
) -> None:
    merged = scripts.evaluate("([a, b]) => mergedOrder(a, b)", [before, after])
    assert sorted(merged) == sorted({*before, *after})
    assert [name for name in merged if name in after] == after


LAYERED = """pairs => {
  const count = Math.max(1, ...pairs.flat().map(n => n + 1));
  const vertices = Array.from({length: count}, () => ({width: 90, height: 40}));
  const wires = pairs.map(([a, b], key) => ({
    key, source: vertices[a], targets: [vertices[b]],
    reached: [{vertex: vertices[b], sides: 3}],
  }));
  rankVertices(vertices, wires);
  const layers = buildLayers(vertices, wires);
  neighbours(layers, wires);
  orderLayers(layers);
  const width = placeAcross(layers);
  placeDown(layers);
  return {
    ranks: pairs.map(([a, b]) => [vertices[a].rank, vertices[b].rank]),
    rows: layers.map(layer => layer.map(v => [v.x, v.x + v.width])),
    width,
    segments: wires.map(wire => wire.segments.length),
  };
}"""


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30, unique=True))
def test_wires_lead_down_and_boxes_keep_apart(scripts: Page, pairs: list[tuple[int, int]]) -> None:
    forward = [(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]]
    found: dict[str, Any] = scripts.evaluate(LAYERED, forward)
    for (above, below), segments in zip(found["ranks"], found["segments"], strict=True):
        assert above < below
        assert segments == below - above  # a long wire passes every layer between
    for row in found["rows"]:
        for (_, end), (start, _) in itertools.pairwise(row):
            assert start > end
    assert found["width"] == pytest.approx(
        max((end for row in found["rows"] for _, end in row), default=0)
    )


def test_a_cycle_of_a_broken_graph_is_drawn_nevertheless(scripts: Page) -> None:
    found = scripts.evaluate(LAYERED, [[0, 1], [1, 2], [2, 0]])
    assert len(found["rows"]) == 3
