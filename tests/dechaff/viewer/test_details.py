"""The panel on the right: provenance, formulas, weights; search and the text view."""

from __future__ import annotations

from typing import Any

import pytest
import sympy
from playwright.sync_api import Page

from dechaff.trace_file import apply_difference
from tests.dechaff.viewer.browsing import Pages, details


def step_index(trace: dict[str, Any], name: str) -> int:
    return 1 + [step["name"] for step in trace["steps"]].index(name)


@pytest.fixture
def attention(pages: Pages, bert_trace: dict[str, Any]) -> Page:
    """The page with the first fused attention selected."""
    index = step_index(bert_trace, "fuse-attention")
    return pages.open(bert_trace, f"pass={index}&node=Attention")


def graph_after(trace: dict[str, Any], index: int) -> dict[str, Any]:
    graph: dict[str, Any] = trace["initial"]
    for step in trace["steps"][:index]:
        if "difference" in step and not step.get("undone"):
            graph = apply_difference(graph, step["difference"])
    return graph


def test_a_node_says_which_pass_and_rule_made_it_from_which_nodes(attention: Page) -> None:
    text = details(attention)
    assert "fuse-attention" in text
    assert "absorb-head-transposes" in text
    origins = attention.evaluate("viewer.step.graphAfter.nodes.get('Attention').origins")
    assert len(origins) > 1
    assert all(name in text for name in origins)


def test_the_rule_is_shown_before_and_after(attention: Page) -> None:
    rule = attention.locator("#details details.rule")
    if rule.get_attribute("open") is None:
        rule.locator("summary").click()
    assert "Transpose" in rule.locator("pre.removed").inner_text()
    assert rule.locator("pre.added").inner_text().startswith("+ ")


def test_a_node_is_followed_from_the_imported_model_to_the_lowered_one(attention: Page) -> None:
    lineage = attention.locator(".lineage li").all_inner_texts()
    assert "imported model" in lineage[0]
    assert "lower for cpu" in lineage[-1]
    assert attention.locator(".lineage li.now").inner_text().count("Attention") >= 1
    attention.locator(".lineage li").first.locator(".links button").first.click()
    assert attention.evaluate("viewer.state.step") == 0
    assert "imported with the model" in details(attention)


def test_the_operators_that_run_are_named(attention: Page) -> None:
    assert "runs as" in details(attention)


def test_the_line_of_the_torch_module_is_shown(attention: Page) -> None:
    assert "modeling_bert.py:" in details(attention) or "sdpa_attention.py:" in details(attention)


def test_formulas_are_evaluated_at_the_chosen_sizes(
    attention: Page, bert_trace: dict[str, Any]
) -> None:
    formula = attention.evaluate("viewer.step.graphAfter.nodes.get('Attention').flops")
    sizes = {"batch": 3, "sequence": 50}
    for name, size in sizes.items():
        attention.get_by_label(f"Size {name}").fill(str(size))
        attention.get_by_label(f"Size {name}").press("Enter")
    expected = float(sympy.sympify(formula, locals=sizes))
    assert formula in details(attention)
    shown = attention.locator("#details dt", has_text="FLOPs").locator("+ dd b").inner_text()
    number, _, prefix = shown.partition(" ")
    value = float(number) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[prefix]
    assert value == pytest.approx(expected, rel=0.006)  # three digits are shown


def test_statistics_of_a_weight_are_those_of_the_trace(
    pages: Pages, bert_trace: dict[str, Any]
) -> None:
    graph = bert_trace["initial"]
    name, node = next(
        (name, node)
        for name, node in graph["nodes"].items()
        if node["op"] == "LayerNormalization" and node["inputs"][1] in graph["weights"]
    )
    weight = graph["weights"][node["inputs"][1]]
    text = details(pages.open(bert_trace, f"pass=0&node={name}"))
    assert weight["digest"] in text
    assert f"mean {weight['mean']:g}" in text


@pytest.mark.parametrize(
    ("words", "operator"),
    [
        ("layernorm layer.1 output", "LayerNormalization"),
        ("absorb-head-transposes", "Attention"),
        ("encoder.layer.1.attention.self added", "Attention"),
    ],
)
def test_search_finds_by_operator_module_and_rule(
    attention: Page, words: str, operator: str
) -> None:
    attention.evaluate("viewer.select(null)")
    attention.keyboard.press("/")
    attention.keyboard.type(words)
    assert attention.locator("#found li").first.locator("b").inner_text() == operator
    attention.keyboard.press("Enter")
    assert attention.locator("#details h2").inner_text().startswith(operator)
    assert attention.locator(".pane.after .leaf.selected").count() == 1


def test_search_says_that_nothing_was_found(attention: Page) -> None:
    attention.fill("#search", "no such thing")
    assert attention.locator("#found").inner_text() == "nothing found"


def test_the_text_view_shows_what_the_pass_removed_and_added(
    attention: Page, bert_trace: dict[str, Any]
) -> None:
    attention.click('[data-view="text"]')
    step = bert_trace["steps"][step_index(bert_trace, "fuse-attention") - 1]
    made = [name for rewrite in step["rewrites"] for name in rewrite["new_nodes"]]
    added = attention.eval_on_selector_all(
        "#text .line.added", "all => all.map(one => one.dataset.id)"
    )
    removed = attention.eval_on_selector_all(
        "#text .line.removed", "all => all.map(one => one.dataset.id)"
    )
    assert set(made) <= set(added)
    assert set(step["difference"]["removed"]) <= set(removed)
    assert attention.locator("#text .line.selected").get_attribute("data-id") == "Attention"


def test_the_text_view_folds_what_is_unchanged_and_selects_by_a_click(attention: Page) -> None:
    attention.click('[data-view="text"]')
    lines = attention.locator("#text .line").count()
    attention.check("#hide-same")
    assert attention.locator("#text .line").count() < lines
    assert "unchanged lines" in attention.locator("#text .fold").first.inner_text()
    line = attention.locator("#text .line.removed").first
    line.click()
    assert attention.evaluate("viewer.state.node") == line.get_attribute("data-id")


def test_the_page_rebuilds_the_graphs_that_were_recorded(
    pages: Pages, bert_trace: dict[str, Any]
) -> None:
    page = pages.open(bert_trace)
    seen = page.evaluate("viewer.steps.map(step => [...step.graphNext.nodes.keys()].sort())")
    expected = [sorted(graph_after(bert_trace, index)["nodes"]) for index in range(len(seen))]
    assert seen == expected
