"""``python -m benchmarks.vision_language``: early exits in a unified vision-language model (MuE).

One encoder reads the picture and, by itself, the question; a decoder attends to both and answers.
The script makes pictures and questions itself, trains the model on them with a loss at every layer
of the decoder (MuE, CVPR 2023, sections 3.2 and 3.3), and lets rows leave all three stacks by the
likeness of the states before and after a layer. A picture is a grid of cells with a colour and a
shape each, and noise; a question asks for the colour or the shape of one cell, or how many cells
have a colour::

    python -m benchmarks.vision_language -o build/vision-language

Thresholds, one for each stack, are chosen on dev examples, encoders first; they are inputs of the
one graph. Accuracy and time are those of other examples, time in turns with the same model without
exits.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

import dechaff
from benchmarks.exports import quiet
from benchmarks.inputs import Array
from benchmarks.machine import describe_machine, versions
from benchmarks.measure import median_ratio, time_interleaved
from dechaff.layerwise_loss import layerwise_loss

from .examples import make_examples
from .model import LAYERS, WIDTH, UnifiedModel

_KEEPS = (1.0, 0.99, 0.98, 0.95)
_NEVER = 2.0
_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, _NEVER)
_STACKS = ("encoder_1", "encoder_2", "decoder")
_SIZES = (1, 16)


def train(options: argparse.Namespace) -> UnifiedModel:
    """Train, or read what was trained before."""
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    model, path = UnifiedModel(), options.output / "model.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01, fused=True)
    rise = max(1, options.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, 1 - step / options.steps)
    )
    for step in range(options.steps):
        examples = _tensors(make_examples(options.batch, options.seed + 1000 + step))
        labels = examples.pop("answer")
        loss = layerwise_loss(model.all_logits(**examples), labels)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)
    torch.save(model.state_dict(), path)
    return model.eval()


def _tensors(examples: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in examples.items()}


@dataclasses.dataclass
class Setting:
    """Thresholds by stack, and what was measured with them."""

    keep: float
    thresholds: dict[str, float]
    dev: float
    accuracy: float = 0.0
    saved: dict[str, float] = dataclasses.field(default_factory=dict)


class Exits:
    """The model with exits in all stacks, whose thresholds are inputs."""

    def __init__(self, model: UnifiedModel, example: dict[str, torch.Tensor]) -> None:
        with quiet():
            self.base = dechaff.optimize(model, example, verify="off")
            self.exits = dechaff.optimize(model, example, passes="default,early-exit", verify="off")

    def inputs(self, examples: Mapping[str, Array], thresholds: Mapping[str, float]) -> Any:
        """Inputs for the graph with exits."""
        found = {
            f"{stack}_exit_thresholds": np.full(LAYERS - 1, value, np.float32)
            for stack, value in thresholds.items()
        }
        return {**without_answers(examples), **found}

    def accuracy(self, examples: Mapping[str, Array], thresholds: Mapping[str, float]) -> float:
        """Share of right answers, a hundred rows at a time."""
        right = [
            next(iter(self.exits.run(self.inputs(part, thresholds)).values())).argmax(axis=1)
            == part["answer"]
            for part in batches(examples, 100)
        ]
        return float(np.concatenate(right).mean())


def without_answers(examples: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs of the model."""
    return {name: array for name, array in examples.items() if name != "answer"}


def batches(examples: Mapping[str, Array], size: int, limit: int | None = None) -> list[Any]:
    """Parts of the examples."""
    count = len(examples["answer"]) if limit is None else limit
    return [
        {name: array[start : start + size] for name, array in examples.items()}
        for start in range(0, count, size)
    ]


def choose(exits: Exits, dev: Mapping[str, Array], keep: float) -> Setting:
    """The boldest threshold of each stack that keeps its share; encoders first."""
    thresholds = dict.fromkeys(_STACKS, _NEVER)
    full = exits.accuracy(dev, thresholds)
    accuracy = full
    for number, stack in enumerate(_STACKS, start=1):
        least = full * (1 - (1 - keep) * number / len(_STACKS))
        for value in _THRESHOLDS:
            tried = exits.accuracy(dev, {**thresholds, stack: value})
            if tried >= least:
                thresholds[stack], accuracy = value, tried
                break
    return Setting(keep, thresholds, accuracy)


def measure(
    exits: Exits, settings: Sequence[Setting], test: Mapping[str, Array], rounds: int
) -> None:
    """Fill in accuracy, and the share of time saved by batch size."""
    for setting in settings:
        setting.accuracy = exits.accuracy(test, setting.thresholds)
    for size in _SIZES:
        parts = batches(test, size, 64 if size == 1 else 320)
        plain = [without_answers(part) for part in parts]
        runs: dict[str, Callable[[], None]] = {"base": _runner(exits.base, plain)}
        for setting in settings:
            given = [exits.inputs(part, setting.thresholds) for part in parts]
            runs[f"{setting.keep}"] = _runner(exits.exits, given)
        timings = time_interleaved(runs, rounds)
        for setting in settings:
            setting.saved[str(size)] = 1 - median_ratio(timings, f"{setting.keep}", "base")
        base = 1e3 * statistics.median(timings["base"]) / len(parts)
        print(f"without exits, batch {size}: {base:.2f} ms", flush=True)


def _runner(model: dechaff.OptimizedModel, parts: Sequence[Any]) -> Callable[[], None]:
    def run() -> None:
        for part in parts:
            model.run(part)

    return run


def markdown(settings: Sequence[Setting], full: float) -> str:
    """The table."""
    lines = [
        f"*6 + 6 layers, width {WIDTH}; without exits: accuracy {full:.4f}*",
        "",
        "| to keep on dev | threshold, picture | question | decoder | accuracy | of the model's | "
        "time saved, batch 1 | batch 16 |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for setting in settings:
        values = ["never" if v == _NEVER else f"{v:g}" for v in setting.thresholds.values()]
        lines.append(
            f"| {setting.keep:.0%} | {' | '.join(values)} | {setting.accuracy:.4f} | "
            f"{setting.accuracy / full:.1%} | {setting.saved['1']:.0%} | "
            f"{setting.saved['16']:.0%} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, choose, measure, print; 0."""
    options = _parse(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    model = train(options)
    if options.only_train:
        return 0
    dev, test = make_examples(1000, options.seed + 1), make_examples(2000, options.seed + 2)
    example = _tensors(without_answers(batches(dev, 2, 2)[0]))
    exits = Exits(model, example)
    settings = [choose(exits, dev, keep) for keep in _KEEPS]
    measure(exits, settings, test, options.rounds)
    full = exits.accuracy(test, dict.fromkeys(_STACKS, _NEVER))
    text = markdown(settings, full)
    print(text)
    record = {
        "accuracy": full,
        "settings": [dataclasses.asdict(setting) for setting in settings],
        "machine": describe_machine(),
        "versions": versions(),
    }
    (options.output / "vision_language.md").write_text(text + "\n", "utf-8")
    (options.output / "vision_language.json").write_text(
        json.dumps(record, indent=1) + "\n", "utf-8"
    )
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vision_language",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="of training")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only-train", action="store_true", help="measure in a later run")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
