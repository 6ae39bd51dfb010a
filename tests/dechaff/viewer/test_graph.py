"""The graph: modules that open and close, panes side by side, marks, and what can be hidden."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.dechaff.viewer.browsing import Pages, choose, leaves

SVG = "{http://www.w3.org/2000/svg}"


def step_index(trace: dict[str, Any], name: str) -> int:
    return 1 + [step["name"] for step in trace["steps"]].index(name)


@pytest.fixture
def fusion(pages: Pages, bert_trace: dict[str, Any]) -> Page:
    """The page at the step that fuses attention."""
    return pages.open(bert_trace, f"pass={step_index(bert_trace, 'fuse-attention')}")


def transforms(page: Page) -> set[str]:
    scenes = page.locator(".scene")
    return {scenes.nth(index).get_attribute("transform") or "" for index in range(scenes.count())}


def centre(page: Page, pane: str) -> tuple[float, float]:
    box = page.locator(pane).bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def groups(page: Page) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        ".pane.after .group", "all => all.map(one => one.dataset.id)"
    )
    return found


def test_modules_are_closed_at_first_and_open_by_a_click(fusion: Page) -> None:
    assert "encoder.layer.0" in groups(fusion)
    assert "encoder.layer.0.attention" not in groups(fusion)
    choose(fusion, "encoder.layer.0")
    assert "encoder.layer.0.attention" in groups(fusion)


def test_a_click_on_the_title_of_an_open_module_closes_it(fusion: Page) -> None:
    choose(fusion, "encoder.layer.0")
    selector = '.pane.after [data-id="encoder.layer.0"] > .handle'
    fusion.locator(selector).click(position={"x": 30, "y": 8})
    assert "encoder.layer.0.attention" not in groups(fusion)


def test_all_modules_open_and_close(fusion: Page, bert_trace: dict[str, Any]) -> None:
    fusion.click("#expand")
    number = fusion.evaluate("viewer.step.graphAfter.nodes.size")
    assert len([name for name in leaves(fusion) if not name.startswith(("input:", "output:"))]) == (
        number
    )
    fusion.click("#collapse")
    assert fusion.locator(".group.open").count() == 0


def test_changed_modules_open_alone(fusion: Page) -> None:
    fusion.click("#expand-changes")
    assert "encoder.layer.1.attention.self" in groups(fusion)
    assert fusion.locator('.pane.after .group.open[data-id="pooler"]').count() == 0
    assert fusion.locator(".pane.after .leaf.added").count() == 2


def test_both_panes_move_and_zoom_together(fusion: Page) -> None:
    x, y = centre(fusion, ".pane.before")
    at_first = transforms(fusion)
    assert len(at_first) == 1
    fusion.mouse.move(x, y)
    fusion.mouse.wheel(0, -240)
    zoomed = transforms(fusion)
    assert len(zoomed) == 1
    assert zoomed != at_first
    fusion.mouse.down()
    fusion.mouse.move(x + 60, y + 40, steps=4)
    fusion.mouse.up()
    moved = transforms(fusion)
    assert len(moved) == 1
    assert moved != zoomed


def test_a_selection_shows_in_both_panes(fusion: Page) -> None:
    choose(fusion, "pooler")
    for pane in (".pane.before", ".pane.after"):
        assert fusion.locator(f"{pane} .group.selected").get_attribute("data-id") == "pooler"


def test_what_was_added_and_removed_is_told_by_sign_colour_and_line(fusion: Page) -> None:
    fusion.click("#expand-changes")
    added = fusion.locator(".pane.after .leaf.added").first
    assert added.locator(".mark text").text_content() == "+"
    removed = fusion.locator(".pane.before .leaf.removed").first
    assert removed.locator(".mark text").text_content() == "−"
    style = "one => [getComputedStyle(one).stroke, getComputedStyle(one).strokeDasharray]"
    strokes = [item.locator(".box").evaluate(style) for item in (added, removed)]
    assert strokes[0][0] != strokes[1][0]
    assert strokes[0][1] != strokes[1][1]
    legend = fusion.locator("#legend").inner_text()
    assert "added" in legend
    assert "removed" in legend


def test_each_pane_lacks_what_the_other_alone_has(fusion: Page) -> None:
    fusion.click("#expand-changes")
    before, after = leaves(fusion, ".pane.before"), leaves(fusion)
    assert "Attention" in after
    assert "Attention" not in before
    gone = fusion.evaluate(
        "[...viewer.step.graphBefore.nodes.keys()]"
        ".filter(id => !viewer.step.graphAfter.nodes.has(id))"
    )
    assert set(gone) & set(before)
    assert not set(gone) & set(after)


def test_a_wire_to_an_added_operator_is_not_drawn_before(fusion: Page) -> None:
    fusion.click("#expand-changes")
    assert fusion.locator(".pane.before .wire.added").count() == 0
    assert fusion.locator(".pane.after .wire.removed").count() == 0
    assert fusion.locator(".pane.before .wire.removed").count() > 0
    assert fusion.locator(".pane.after .wire.added").count() > 0


def test_unchanged_operators_can_be_hidden(fusion: Page) -> None:
    fusion.click("#expand-changes")
    shown_at_first = fusion.locator(".pane.after .leaf.same").count()
    fusion.check("#hide-same")
    assert shown_at_first > 0
    assert fusion.locator(".pane.after .leaf.same").count() == 0
    assert fusion.locator(".pane.after .leaf.added").count() == 2


def test_the_overlay_shows_both_graphs_in_one(fusion: Page) -> None:
    fusion.click('[data-view="overlay"]')
    fusion.click("#expand-changes")
    assert fusion.locator(".pane").count() == 1
    assert fusion.locator(".leaf.added:not(.ghost)").count() == 2
    assert fusion.locator(".leaf.removed:not(.ghost)").count() > 2


def test_a_pass_without_changes_is_shown_in_one_pane(
    pages: Pages, bert_trace: dict[str, Any]
) -> None:
    index = next(n for n, step in enumerate(bert_trace["steps"], 1) if not step["changed"])
    page = pages.open(bert_trace, f"pass={index}")
    assert page.locator(".pane").count() == 1
    assert "changed nothing" in page.locator("#legend").inner_text()


def test_the_visible_graph_is_saved_as_an_image_of_its_own(fusion: Page) -> None:
    fusion.click("#expand-changes")
    with fusion.expect_download() as download:
        fusion.click("#export")
    assert download.value.suggested_filename == "fuse-attention.svg"
    root = ElementTree.parse(download.value.path()).getroot()
    ids = {item.get("data-id") for item in root.iter(f"{SVG}g")}
    assert set(leaves(fusion)) <= ids
    style = root.find(f"{SVG}style")
    assert style is not None
    assert "var(" not in (style.text or "")


def test_arrows_walk_along_the_edges(fusion: Page) -> None:
    fusion.evaluate("viewer.select('Attention')")
    fusion.keyboard.press("ArrowDown")
    consumer = fusion.evaluate("viewer.state.node")
    reads = fusion.evaluate("id => viewer.step.graphAfter.nodes.get(id).inputs", consumer)
    made = fusion.evaluate("viewer.step.graphAfter.nodes.get('Attention').outputs[0][0]")
    assert made in reads


def test_enter_and_escape_open_a_module_and_select_nothing(fusion: Page) -> None:
    fusion.evaluate("viewer.set({node: 'pooler'})")
    fusion.keyboard.press("Enter")
    assert fusion.locator('.pane.after .group.open[data-id="pooler"]').count() == 1
    fusion.keyboard.press("Escape")
    assert fusion.evaluate("viewer.state.node") is None


OVERLAPS = """() => {
  const found = [];
  const size = (one, name) => Number(one.querySelector(".box").getAttribute(name));
  for (const level of document.querySelectorAll(".after .scene, .after .group.open")) {
    const boxes = [...level.children].filter(one => one.matches(".leaf, .group")).map(one => {
      const [x, y] = one.getAttribute("transform").match(/-?[\\d.]+/g).map(Number);
      return [x, y, x + size(one, "width"), y + size(one, "height"), one.dataset.id];
    }).sort((a, b) => a[1] - b[1]);
    boxes.forEach((a, i) => {
      for (const b of boxes.slice(i + 1)) {
        if (b[1] > a[3] - 0.5) break;
        if (a[0] < b[2] - 0.5 && b[0] < a[2] - 0.5) found.push([a[4], b[4]]);
      }
    });
  }
  return found;
}"""


def test_boxes_of_one_level_do_not_overlap(pages: Pages, deep_trace: dict[str, Any]) -> None:
    page = pages.open(deep_trace, "pass=1&expand=all")
    assert page.evaluate(OVERLAPS) == []


CENTRES = """() => [...document.querySelectorAll(".pane.after .group")]
  .filter(one => /^bert[.]encoder[.]layer[.][0-9]+$/.test(one.dataset.id))
  .map(one => one.querySelector(".box").getBoundingClientRect())
  .map(box => [(box.left + box.right) / 2, box.width])"""


def test_modules_that_follow_each_other_stand_in_a_column(
    pages: Pages, deep_trace: dict[str, Any]
) -> None:
    page = pages.open(deep_trace, "pass=1")
    found = page.evaluate(CENTRES)
    assert len(found) == 14
    centres = [centre for centre, _ in found]
    assert max(centres) - min(centres) < max(width for _, width in found)


def test_operators_for_sizes_and_masks_are_gathered(
    pages: Pages, deep_trace: dict[str, Any]
) -> None:
    page = pages.open(deep_trace, "pass=0&expand=all")
    gathered = [name for name in groups(page) if "(sizes and masks" in name]
    assert gathered
    inside = page.evaluate(
        """keys => keys.flatMap(key => viewer.comparison.tree.groupsByKey.get(key).leaves)
             .flatMap(leaf => leaf.node.outputs.map(([, type]) => type))""",
        gathered,
    )
    assert all(text.startswith(("int", "bool")) for text in inside)


def test_copies_of_weights_stand_in_the_module_that_reads_them(
    pages: Pages, deep_trace: dict[str, Any]
) -> None:
    page = pages.open(deep_trace, "pass=0")
    homes = page.evaluate(
        """() => viewer.comparison.leaves
             .filter(leaf => leaf.node.op === "Identity" && !leaf.node.path)
             .map(leaf => leaf.parent.key)"""
    )
    assert len(homes) > 100  # the older exporter copies equal biases
    assert all(home.startswith("bert.") for home in homes)
