"""A metric drives the approximate passes: what it keeps, what it promises, how it goes on."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import dechaff
from dechaff.command_line import cli
from dechaff.ir import UsageError
from dechaff.search import SearchResult
from tests.dechaff.search.toy_models import batches, classifier
from tests.model_runner import run_module
from tests.passes.exit_graphs import encoder
from tests.passes.rewrite_checks import module_from

MODULE = classifier()
DATA = batches(MODULE)


def searched(**settings: Any) -> SearchResult:
    given: dict[str, Any] = {"metric": "accuracy", "data": DATA, "verify": "off"} | settings
    model = given.pop("model", MODULE).model.clone()
    report = dechaff.optimize(model, **given).report
    assert report is not None
    assert report.search is not None
    return report.search


def removed(result: SearchResult) -> set[str]:
    """Blocks that the pass list found removes whole."""
    return set(re.findall(r"(ffn\.\d)(?=[+,}])", result.pass_list))


def test_blocks_that_do_nothing_go_and_the_others_stay() -> None:
    result = searched(max_drop=0.02)
    assert {"ffn.1", "ffn.3"} <= removed(result)
    assert not {"ffn.0", "ffn.2"} & removed(result)
    assert result.complete
    assert result.held_out >= result.held_out_original - 0.06
    first, last = result.points[0], result.points[-1]
    assert last.megabytes is not None
    assert first.megabytes is not None
    assert last.megabytes < 0.6 * first.megabytes


def test_the_pass_list_found_makes_the_same_model_without_a_search() -> None:
    inputs = [{"x": batch["x"]} for batch in DATA[:3]]
    given: dict[str, Any] = {"verify": "off", "calibration": inputs}
    optimized = dechaff.optimize(MODULE.model.clone(), metric="accuracy", data=DATA, **given)
    assert optimized.report is not None
    assert optimized.report.search is not None
    found = optimized.report.search.pass_list
    again = dechaff.optimize(MODULE.model.clone(), passes=found, **given)
    x = DATA[0]["x"]
    assert optimized.run({"x": x})["logits"].tobytes() == again.run({"x": x})["logits"].tobytes()


def test_mode_accuracy_keeps_only_what_does_not_hurt() -> None:
    result = searched(mode="accuracy")
    touched = set(re.findall(r"ffn\.\d", result.pass_list))
    assert touched
    assert touched <= {"ffn.1", "ffn.3"}
    first, last = result.points[0], result.points[-1]
    assert min(point.searched for point in result.points) == first.searched
    assert last.megabytes is not None
    assert first.megabytes is not None
    assert last.megabytes < first.megabytes


def test_a_greater_margin_gives_up_less() -> None:
    bold, careful = (searched(max_drop=0.1, margin=margin) for margin in (0, 20))
    drops = [result.points[-1].searched_drop for result in (bold, careful)]
    assert drops[0] is not None
    assert 0 < drops[0].mean <= 0.1
    assert drops[0].count == 384
    assert drops[1] is None or drops[1].at_most(20) <= 0.1 + 1e-9
    assert (bold.points[-1].megabytes or 0) < (careful.points[-1].megabytes or 0)
    assert f"drop {bold.points[-1].held_out_drop}; on the searched part" in str(bold.summary())


def test_every_kind_of_edit_is_tried_early() -> None:
    decisions = searched(max_drop=0.02).decisions
    assert [decision.level for decision in decisions[:4]] == ["features", "blocks"] * 2
    assert decisions[0].edit.endswith(("ffn.1.features", "ffn.3.features"))
    assert {decision.edit for decision in decisions[1:4:2]} == {"ffn.1", "ffn.3"}


def test_two_searches_decide_the_same() -> None:
    first, second = searched(seed=3), searched(seed=3)
    assert first.pass_list == second.pass_list
    assert [d.edit for d in first.decisions] == [d.edit for d in second.decisions]


def test_a_search_that_was_stopped_goes_on(tmp_path: pathlib.Path) -> None:
    whole = searched()
    searched(search_folder=tmp_path)
    file = tmp_path / "trials.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[: len(lines) // 2]) + '\n{"tried": "cut sh')
    resumed = searched(search_folder=tmp_path)
    assert resumed.pass_list == whole.pass_list
    assert len(file.read_text().splitlines()) == len(lines)
    others: list[dict[str, Any]] = [{"seed": 1}, {"calibration": [{"x": DATA[0]["x"]}]}]
    for other in others:
        with pytest.raises(UsageError, match="of another search"):
            searched(search_folder=tmp_path, **other)


def test_a_budget_that_runs_out_gives_the_best_so_far_and_says_so() -> None:
    result = searched(budget="0.001s")
    assert not result.complete
    assert result.pass_list.count("prune") == 1
    assert "the budget ran out after" in result.warnings()[0]


def test_the_held_out_part_is_not_searched() -> None:
    seen: list[int] = []

    def metric(outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> float:
        seen.append(id(batch["x"]))
        return float((outputs["logits"].argmax(1) == batch["labels"]).mean())

    result = searched(metric=metric, max_drop=0.02)
    counts = sorted(seen.count(each) for each in set(seen))
    assert counts[:3] == [len(result.points)] * 3
    assert counts[3] > counts[2]


def test_unlabelled_data_is_held_to_the_original() -> None:
    data = [{"x": batch["x"]} for batch in DATA]
    result = searched(metric="cosine", data=data, max_drop=0.01)
    assert {"ffn.1", "ffn.3"} <= removed(result)
    assert result.points[0].searched == pytest.approx(1.0)
    with pytest.raises(UsageError, match="needs labels"):
        searched(data=data)


def raises(outputs: Any, batch: Any) -> float:
    return float(batch["no such thing"])


def undefined(outputs: Any, batch: Any) -> float:
    return float("nan")


def no_number(outputs: Any, batch: Any) -> Any:
    return "good"


def right_share(outputs: Any, batch: Any) -> float:
    return float((outputs["logits"].argmax(1) == batch["labels"]).mean())


class CountsCalls:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, outputs: Any, batch: Any) -> float:
        self.calls += 1
        return float(self.calls)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": raises}, "the metric raises raised KeyError.*called with the outputs logits"),
        ({"metric": undefined}, "gave nan: expected a finite number"),
        ({"metric": no_number}, "gave a str, expected a number"),
        ({"metric": CountsCalls()}, "opposite order; it must depend on its two arguments alone"),
        ({"metric": "acuracy"}, "there is no metric 'acuracy': choose accuracy, f1"),
        ({"data": []}, "data holds no batches; expected at least 2"),
        ({"data": [DATA[0]]}, "data holds 1 batch; expected at least 2"),
        ({"data": DATA[0]}, "data is one mapping; expected a sequence of batches"),
        ({"data": [{"x": b["x"][:0], "labels": b["labels"][:0]} for b in DATA]}, "holds no rows"),
        ({"data": None}, "a metric is given without data"),
        ({"metric": None}, "data is given without a metric"),
        ({"mode": "small"}, "there is no mode 'small': choose accuracy, size, speed"),
        ({"budget": "soon"}, "budget: expected a time such as '10min'"),
        ({"max_drop": -1}, "max_drop: expected a number from 0"),
        ({"margin": -1}, "margin: expected standard errors, from 0, got -1"),
        ({"metric": right_share, "data": DATA[:2]}, "one batch is left to search by: give data in"),
        ({"passes": "none"}, "no pass of the list trades accuracy"),
        ({"passes": "hard-attention{k=2}"}, "mode speed: hard-attention can save no time"),
    ],
)
def test_what_cannot_be_searched_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        searched(**settings)


def test_the_report_shows_the_way_and_the_plot_is_drawn(tmp_path: pathlib.Path) -> None:
    optimized = dechaff.optimize(MODULE.model.clone(), metric="accuracy", data=DATA, verify="off")
    assert optimized.report is not None
    assert optimized.report.search is not None
    text = str(optimized.report)
    assert "accuracy on the held-out part" in text
    assert "original" in text
    assert optimized.report.to_dict()["search"]["passes"] == optimized.report.search.pass_list
    optimized.report.search.plot(tmp_path / "way.svg")
    assert "held-out part" in (tmp_path / "way.svg").read_text()


def test_progress_tells_what_is_tried() -> None:
    steps: list[tuple[int, int, str]] = []
    searched(progress=lambda done, total, text: steps.append((done, total, text)), budget=600)
    tried = [text for _, total, text in steps if total == 600]
    assert any("prune ffn.3; so far" in text for text in tried)


def test_a_model_that_is_no_number_is_refused() -> None:
    data = [batch | {"x": np.full_like(batch["x"], np.nan)} for batch in DATA]
    with pytest.raises(UsageError, match="are not numbers"):
        searched(metric="cosine", data=data)


def test_the_command_line_searches_and_draws(tmp_path: pathlib.Path) -> None:
    model, result = tmp_path / "toy.onnx", tmp_path / "small.onnx"
    dechaff.optimize(MODULE.model.clone(), passes="none", verify="off").save(model)
    x, labels = (np.concatenate([batch[name] for batch in DATA]) for name in ("x", "labels"))
    np.savez(tmp_path / "dev.npz", x=x, labels=labels)
    (tmp_path / "metric.py").write_text(
        "def share(outputs, batch):\n"
        "    return (outputs['logits'].argmax(1) == batch['labels']).mean()\n"
    )
    arguments = ["optimize", str(model), "-o", str(result), "--data", str(tmp_path / "dev.npz")]
    arguments += ["--max-drop", "0.02", "--plot", str(tmp_path / "way.svg")]
    arguments += ["--metric", f"{tmp_path / 'metric.py'}:share"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "share on the held-out part" in done.output
    assert result.stat().st_size < model.stat().st_size
    assert (tmp_path / "way.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "accuracy"], "a metric is given without data"),
        (["--metric", "nowhere.py:f", "--data", "x.npz"], "there is no file nowhere.py"),
        (["--plot", "way.svg"], "belong to a search: give --metric"),
        (["--metric", "accuracy", "--data", "x.npz"], "--data x.npz: not a readable .npz file"),
    ],
)
def test_a_search_asked_for_wrongly_is_one_line(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(cli, ["optimize", "a.onnx", "-o", "b.onnx", *arguments])
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize("heads", ["own", "fit"])
def test_exits_are_tried_from_the_boldest_threshold_on(heads: str) -> None:
    module = module_from(encoder(3))
    generator = np.random.default_rng(0)
    mask = np.arange(5) < generator.integers(1, 6, (120, 1))
    x = generator.standard_normal((120, 5, 4)).astype(np.float32)
    data = [{"x": x[n : n + 8], "mask": mask[n : n + 8]} for n in range(0, 120, 8)]
    passes = f"fuse-attention,remove-padding,early-exit{{criterion=entropy,heads={heads}}}"
    result = searched(model=module, metric="cosine", data=data, max_drop=0.2, passes=passes)
    scores = [decision.score for decision in result.decisions]
    assert [decision.kept for decision in result.decisions] == [False] * (len(scores) - 1) + [True]
    assert all(f"{heads} heads" in decision.edit for decision in result.decisions)
    layers = [float(decision.edit.split()[3]) for decision in result.decisions]
    assert layers == sorted(layers)
    assert "threshold=" in result.pass_list
    assert "early-exit" not in str([str(step) for step in result.points[0].passes])


def test_a_pass_that_is_not_searched_counts_in_the_result_and_not_in_the_original() -> None:
    result = searched(passes="prune,convert-precision", max_drop=0.02)
    assert [str(step) for step in result.points[0].passes] == []
    assert result.points[-1].name == "all passes"
    assert result.pass_list.endswith("convert-precision")
    smallest, first = result.points[-1].megabytes, result.points[0].megabytes
    assert smallest is not None
    assert first is not None
    assert smallest < 0.5 * first


def test_the_whole_chain_is_one_list() -> None:
    module = module_from(encoder(3))
    generator = np.random.default_rng(0)
    mask = np.arange(5) < generator.integers(1, 6, (240, 1))
    x = generator.standard_normal((240, 5, 4)).astype(np.float32)
    labels = run_module(module, {"x": x, "mask": mask})["logits"].argmax(axis=1)
    data = [
        {"x": x[n : n + 16], "mask": mask[n : n + 16], "labels": labels[n : n + 16]}
        for n in range(0, 240, 16)
    ]
    result = searched(model=module, data=data, max_drop=0.05, passes="compress")
    assert "quantize-dynamic,early-exit{" in result.pass_list
    assert "prune{remove=" in result.pass_list
    assert result.points[-1].name == "all passes"
    assert result.points[-1].searched >= result.points[0].searched - 0.05
