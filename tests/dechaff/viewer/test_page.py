"""The page as a document: it asks for nothing, trusts nothing in the trace, and fits its reader."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest

from dechaff.trace_file import pack_trace
from dechaff.viewer import render_page
from tests.dechaff.viewer.browsing import Pages, details, leaves

HOSTILE = {
    "markup": '<img src=x onerror="window.stolen = 1"><b>bold</b>',
    "end of script": "</script><script>window.stolen = 1</script>",
    "template": "{{script}} ${window.stolen = 1}",
    "quotes": "\" onload='window.stolen = 1' x=\"",
    "prototype": "__proto__",
    "constructor": "constructor",
    "long": "n" * 10_000,
    "right to left": "abc\u202efdp.exe\u2066",
    "control": "a\u0000b\u001b[31m\n",
    "lone surrogate": "x\ud800y",
}


def trace_of(names: list[str]) -> dict[str, Any]:
    """A chain of operators, one for each name, which is also its module, rule and attribute."""
    nodes: dict[str, Any] = {}
    made = "x"
    for index, name in enumerate(names):
        nodes[name] = {
            "op": name,
            "domain": name,
            "inputs": [made],
            "outputs": [[f"{name} {index}", "float[B,4]"]],
            "attributes": {name: name},
            "path": f"{name}.inner",
            "rule": name,
            "source": name,
            "flops": "4*B",
        }
        made = f"{name} {index}"
    graph = {
        "inputs": [["x", "float[B,4]"]],
        "outputs": [[made, "float[B,4]"]],
        "order": names,
        "nodes": nodes,
        "weights": {},
    }
    step = {
        "name": names[0],
        "kind": "pass",
        "changed": True,
        "near_misses": [{"rule": name, "node": name, "reason": name} for name in names],
        "notes": names,
        "difference": {"removed": [names[0]], "order": [[0, 1, []]]},
    }
    return {
        "format": "dechaff-trace",
        "version": 1,
        "kind": "optimization",
        "source": names[0],
        "options": {"passes": names},
        "versions": {name: name for name in names},
        "sizes": {"B": 2},
        "initial": graph,
        "steps": [step],
    }


SHOWN = """() => document.title + document.body.innerText
  + [...document.querySelectorAll("svg text, svg title")].map(one => one.textContent).join()
  + [...document.querySelectorAll("[title]")].map(one => one.title).join()"""


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_names_are_shown_as_text(pages: Pages, kind: str) -> None:
    name = HOSTILE[kind]
    page = pages.open(trace_of([name, "harmless"]), "pass=0&expand=all")
    assert page.evaluate("window.stolen") is None
    assert page.locator("img, b b, #details b b").count() == 0
    assert len(leaves(page)) == 4
    page.evaluate("viewer.select(viewer.step.graphAfter.order[0])")
    text = details(page)
    assert name.strip()[:1] in text
    assert not re.search("[\u202e\u2066\u0000\u001b]", page.evaluate(SHOWN))
    page.click('[data-view="text"]')
    assert page.locator("#text .line").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_policy_admits_the_pages_own_script_alone(pages: Pages) -> None:
    page = pages.open(trace_of(["a", "b"]))
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.stolen = 1";
          document.body.append(script);
          const image = document.createElement("img");
          image.src = "https://example.com/x.png";
          document.body.append(image);
        }"""
    )
    assert page.evaluate("window.stolen") is None
    refused = [text for text in pages.complaints if "Content Security Policy" in text]
    assert len(refused) >= 2
    pages.complaints.clear()
    asked = [url for url in pages.requests if "example.com" in url]
    for url in asked:
        pages.requests.remove(url)  # it is announced, and refused before it is sent


def test_the_page_names_no_address_and_is_the_same_each_time() -> None:
    trace = trace_of(["a", "b"])
    page = render_page(trace)
    assert page == render_page(trace)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a namespace; never fetched
    assert "default-src 'none'" in page
    assert "unsafe" not in page


def test_a_damaged_trace_is_told(pages: Pages, tmp_path: pathlib.Path, browser: Any) -> None:
    html = render_page(trace_of(["a", "b"]))
    packed = re.search(r'id="trace">([^<]*)<', html)
    assert packed is not None
    path = tmp_path / "damaged.html"
    path.write_text(html.replace(packed[1], packed[1][:40]), encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("#panes .alarm")
    assert "cannot be read" in page.locator("#panes .alarm").inner_text()
    context.close()


def test_it_works_inside_a_sandboxed_frame(pages: Pages, browser: Any) -> None:
    """As notebooks and reviews show it: without an origin of its own."""
    context = browser.new_context()
    page = context.new_page()
    page.set_content('<iframe sandbox="allow-scripts" width="1200" height="700"></iframe>')
    page.evaluate(
        "text => document.querySelector('iframe').srcdoc = text", render_page(trace_of(["a", "b"]))
    )
    frame = page.frame_locator("iframe")
    frame.locator("#steps button").first.click()
    assert frame.locator(".leaf").count() > 0
    context.close()


def test_light_and_dark_follow_the_reader_and_can_be_switched(
    pages: Pages, bert_trace: dict[str, Any]
) -> None:
    address = pages.write(bert_trace)
    paper = "getComputedStyle(document.body).backgroundColor"
    light = pages.open(address, color_scheme="light")
    dark = pages.open(address, color_scheme="dark")
    colours = [page.evaluate(paper) for page in (light, dark)]
    assert colours[0] != colours[1]
    light.click("#theme")
    assert light.evaluate(paper) == colours[1]
    dark.keyboard.press("l")
    assert dark.evaluate(paper) == colours[0]


CONTRAST = """() => {
  const light = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = one => {
    for (let at = one; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$/.test(color)) return color;
    }
  };
  const texts = "#steps span, #details :is(h2, dt, dd, td), #tools button, .toggle, .size";
  return [...document.querySelectorAll(texts)]
    .filter(one => one.textContent.trim() && !one.matches(".dot, .time-bar"))
    .map(one => {
      const [a, b] = [light(getComputedStyle(one).color), light(ground(one))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), one.textContent.slice(0, 30)];
    }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_ground(
    pages: Pages, bert_trace: dict[str, Any], theme: str
) -> None:
    page = pages.open(bert_trace, f"theme={theme}")
    assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_it_fits_the_window(
    pages: Pages, bert_trace: dict[str, Any], width: int, height: int
) -> None:
    page = pages.open(bert_trace, width=width, height=height)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("#search", "#view-choice", "#expand", "#theme"):
        box = page.locator(selector).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width + 1
    box = page.locator(".pane").last.bounding_box()
    assert box is not None
    assert box["height"] > 300


def test_a_link_leads_to_a_pass_and_a_node(pages: Pages, bert_trace: dict[str, Any]) -> None:
    address = pages.write(bert_trace)
    page = pages.open(address)
    page.locator("#steps .step", has_text="fuse-attention").locator("button").click()
    page.fill("#search", "added attention")
    page.press("#search", "Enter")
    page.check("#hide-same")
    link = page.evaluate("location.hash.slice(1)")
    again = pages.open(address, link)
    for other in (page, again):
        assert other.locator("#details h2").inner_text().startswith("Attention")
        assert other.locator('[aria-current="step"] .step-name').inner_text() == "fuse-attention"
        assert other.locator("#hide-same").is_checked()
    page.evaluate("location.hash = 'pass=0&node=input:input_ids'")
    page.locator("#details h2", has_text="input_ids").wait_for()
    assert page.evaluate("viewer.state.step") == 0


def test_a_link_to_what_is_not_there_opens_the_page(
    pages: Pages, bert_trace: dict[str, Any]
) -> None:
    page = pages.open(bert_trace, "pass=99&node=nothing&view=nonsense&expand=constructor")
    assert page.locator(".leaf").count() > 0


def test_everything_is_reached_by_keyboard(pages: Pages, bert_trace: dict[str, Any]) -> None:
    page = pages.open(bert_trace)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"search", "theme", "changed-only", "hide-same", "expand", "export"} <= reached
    page.evaluate("document.activeElement.blur()")  # a field would take it for text
    page.keyboard.press("?")
    assert page.locator("#help").get_attribute("open") is not None
    page.keyboard.press("Escape")
    assert page.locator("#help").get_attribute("open") is None


def test_a_deep_model_is_small_and_opens_collapsed(
    pages: Pages, deep_trace: dict[str, Any]
) -> None:
    assert len(deep_trace["initial"]["nodes"]) > 1500
    assert len(deep_trace["steps"]) >= 25
    assert len(render_page(deep_trace)) < 5_000_000
    page = pages.open(deep_trace, "pass=0")
    assert page.locator(".scene *").count() < 3000
    page.click("#expand")
    number = len(deep_trace["initial"]["nodes"])
    assert page.locator(".leaf:not(.interface)").count() == number


def test_ten_thousand_operators_without_modules_are_gathered(pages: Pages) -> None:
    names = [f"node_{index}" for index in range(10_000)]
    trace = trace_of(names)
    for node in trace["initial"]["nodes"].values():
        node |= {"op": "Relu", "domain": "", "path": ""}
    page = pages.open(trace | {"steps": []})
    assert page.locator(".leaf, .group").count() < 200
    page.evaluate("viewer.select('node_5000')")
    assert page.locator(".leaf.selected").get_attribute("data-id") == "node_5000"
    assert page.locator(".leaf, .group").count() < 400


def test_equal_traces_pack_to_equal_bytes() -> None:
    assert pack_trace(trace_of(["a", "b"])) == pack_trace(trace_of(["a", "b"]))
