"""The list of passes: what it says, its filter, and stepping through it."""

from __future__ import annotations

from typing import Any

from tests.dechaff.viewer.browsing import Pages, details


def test_every_pass_is_listed_with_its_time_and_what_it_changed(
    pages: Pages, bert_trace: dict[str, Any]
) -> None:
    page = pages.open(bert_trace)
    rows = page.locator("#steps .step").all_inner_texts()
    names = ["imported model", *(step["name"] for step in bert_trace["steps"])]
    assert [name in row for name, row in zip(names, rows, strict=True)] == [True] * len(names)
    packing = next(row for row in rows if "remove-padding" in row)
    assert "FLOPs" in packing
    assert "ms" in packing or " s" in packing
    assert "error" in packing  # the run verified each pass


def test_changed_only_leaves_out_the_passes_that_did_nothing(
    pages: Pages, bert_trace: dict[str, Any]
) -> None:
    page = pages.open(bert_trace)
    page.check("#changed-only")
    rows = page.locator("#steps .step").count()
    assert rows == 1 + sum(step["changed"] for step in bert_trace["steps"])
    page.uncheck("#changed-only")
    assert page.locator("#steps .step").count() == 1 + len(bert_trace["steps"])


def test_keys_step_through_the_passes_that_are_listed(
    pages: Pages, bert_trace: dict[str, Any]
) -> None:
    page = pages.open(bert_trace, "pass=0")
    changed = [step["name"] for step in bert_trace["steps"] if step["changed"]]
    page.check("#changed-only")
    page.locator("#details").focus()
    seen = []
    for _ in changed:
        page.keyboard.press("j")
        seen.append(page.locator('[aria-current="step"] .step-name').inner_text())
    assert seen == changed
    page.keyboard.press("k")
    assert page.locator('[aria-current="step"] .step-name').inner_text() == changed[-2]


def test_a_click_shows_what_the_pass_did(pages: Pages, bert_trace: dict[str, Any]) -> None:
    page = pages.open(bert_trace)
    page.locator("#steps .step", has_text="fuse-attention").locator("button").click()
    text = details(page)
    assert "absorb-head-transposes × 2" in text
    assert "reassociates" in text
    assert page.locator(".pane-title").all_inner_texts() == [
        "before fuse-attention",
        "after fuse-attention",
    ]


def test_what_nearly_applied_is_listed_with_the_reason(
    pages: Pages, bert_trace: dict[str, Any]
) -> None:
    steps = list(bert_trace["steps"])
    miss = {"rule": "gelu", "node": "y = Erf (x)", "reason": "its result is read elsewhere"}
    steps[1] = steps[1] | {"near_misses": [miss]}
    page = pages.open(bert_trace | {"steps": steps}, "pass=2")
    assert "1 near miss" in page.locator('[aria-current="step"]').inner_text()
    assert all(text in details(page) for text in ["Why it did not fire", *miss.values()])


def test_a_pass_that_was_undone_says_why(pages: Pages, bert_trace: dict[str, Any]) -> None:
    index = next(i for i, step in enumerate(bert_trace["steps"]) if step["changed"])
    steps = list(bert_trace["steps"][: index + 1])
    steps[index] = steps[index] | {"undone": "output 'y' is wrong", "changed": False}
    page = pages.open(bert_trace | {"steps": steps}, f"pass={index + 1}")
    assert "Undone: output 'y' is wrong" in details(page)
    assert "undone" in page.locator('[aria-current="step"]').inner_text()


def test_sizes_change_every_figure(pages: Pages, bert_trace: dict[str, Any]) -> None:
    page = pages.open(bert_trace, "pass=0")

    def flops() -> float:
        value: float = page.evaluate(
            "() => viewer.steps[0].graphAfter && Number("
            "[...document.querySelectorAll('.figures tr')].find(row =>"
            " row.textContent.startsWith('FLOPs')).cells[1].textContent"
            ".replace(/ M/, 'e6').replace(/ k/, 'e3').replace(/ G/, 'e9'))"
        )
        return value

    page.get_by_label("Size batch").fill("2")
    page.get_by_label("Size batch").press("Enter")
    once = flops()
    page.get_by_label("Size batch").fill("20")
    page.get_by_label("Size batch").press("Enter")
    assert 9 < flops() / once < 11  # all but the figures' rounding
