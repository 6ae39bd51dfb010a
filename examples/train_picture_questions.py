"""Train a small unified encoder-decoder to answer questions about pictures, ready for early exits.

Pictures and questions are made by the script (``picture_questions.py``)::

    python -m examples.train_picture_questions -o build/picture-questions
    python -m examples.train_picture_questions -o build/picture-questions --device cuda --bfloat16

The second took eight minutes for 20 epochs of 80,000 questions on one H200; two cores take hours.

One encoder encodes the picture's patches and, apart from them, the question's words, with the same
weights; a decoder attends to both and answers with one word (the decomposition of MuE, CVPR 2023,
section 3.1, on a model like OFA's). So that it can be left early, every layer of the decoder
answers during training, by the model's own head (section 3.3), and the decoder learns to read
pictures and questions that left the encoder after any layer: for half of the rows the depths of
both are drawn at random. The output is ``model.pt`` in a folder, with a record of the training; the
same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import itertools
import json
import multiprocessing
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from dechaff.layerwise_loss import layerwise_loss
from examples.picture_question_model import ENCODER_LAYERS, PictureQuestionModel
from examples.picture_questions import QUESTIONS_EACH, Questions, make_questions

LEARNING_RATE = 1e-3
WARM_UP = 0.05
"""Share of all steps in which the learning rate rises; after them it falls to zero."""
SHARE_OF_RANDOM_DEPTHS = 0.5
MODEL_FILE, STATE_FILE = "model.pt", "training_state.pt"


def random_depths(
    rows: int, chance: torch.Generator, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Depths of pictures and of questions, int64[rows] each; all layers for half of the rows."""
    drawn = torch.randint(1, ENCODER_LAYERS + 1, (2, rows), generator=chance)
    whole = torch.rand(rows, generator=chance) >= SHARE_OF_RANDOM_DEPTHS
    drawn[:, whole] = ENCODER_LAYERS
    picture, question = drawn.to(device)
    return picture, question


def to_tensors(inputs: dict[str, Any], device: torch.device) -> dict[str, torch.Tensor]:
    """The inputs of the model as tensors."""
    return {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}


def epochs_of_questions(settings: argparse.Namespace, first: int) -> Iterator[Questions]:
    """Those of each epoch, made in another process while the ones before are trained on."""
    spawned = multiprocessing.get_context("spawn")
    epochs = iter(range(first, settings.epochs))
    with concurrent.futures.ProcessPoolExecutor(1, spawned) as pool:
        made = collections.deque[concurrent.futures.Future[Questions]]()
        while True:
            for epoch in itertools.islice(epochs, 2 - len(made)):
                seed = settings.seed * 1000 + epoch
                made.append(pool.submit(make_questions, settings.pictures, seed))
            if not made:
                return
            yield made.popleft().result()


class Training:
    """One run, from its first epoch or from the end of the last complete one."""

    def __init__(self, settings: argparse.Namespace) -> None:
        torch.manual_seed(settings.seed)
        self._settings = settings
        self._device = torch.device(settings.device)
        self.model = PictureQuestionModel().to(self._device)
        self._dev = make_questions(settings.dev_pictures, seed=settings.seed + 1_000_000)
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
        )
        steps = settings.epochs * -(-QUESTIONS_EACH * settings.pictures // settings.batch_size)
        rise = max(1, int(WARM_UP * steps))
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            lambda step: min((step + 1) / rise, max(0.0, (steps - step) / max(1, steps - rise))),
        )
        self._history: list[dict[str, Any]] = []
        self._resume()

    def run(self, console: Console) -> None:
        """Train what is left of the epochs; each has pictures of its own."""
        first = len(self._history)
        with Progress(console=console, disable=not console.is_terminal) as progress:
            for epoch, questions in enumerate(epochs_of_questions(self._settings, first), first):
                self._train_epoch(epoch, questions, progress)
                self._save(epoch + 1)
                console.print(f"epoch {epoch + 1}: {json.dumps(self._history[-1])}")

    def _train_epoch(self, epoch: int, made: Questions, progress: Progress) -> None:
        settings = self._settings
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(made.answers))
        chance = torch.Generator().manual_seed(settings.seed * 1000 + epoch)
        self.model.train()
        starts = range(0, len(order), settings.batch_size)
        for start in progress.track(starts, description=f"epoch {epoch + 1}"):
            rows = order[start : start + settings.batch_size]
            inputs = to_tensors(made.inputs(rows), self._device)
            labels = torch.from_numpy(made.answers[rows]).to(self._device)
            picture, question = random_depths(len(rows), chance, self._device)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=settings.bfloat16):
                logits = self.model.all_logits(
                    **inputs, picture_depths=picture, question_depths=question
                )
            torch.autograd.backward(layerwise_loss(logits, labels))
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad()
            self._schedule.step()

    def _save(self, epoch: int) -> None:
        """Write the model, then the state that a later run takes up."""
        output: pathlib.Path = self._settings.output
        self._history.append({"epoch": epoch, **accuracies(self.model, self._dev)})
        torch.save(self.model.state_dict(), output / MODEL_FILE)
        record = {"settings": run_identity(self._settings), "history": self._history}
        (output / "training.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
        state = {
            **record,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        torch.save(state, output / f"{STATE_FILE}.new")
        os.replace(output / f"{STATE_FILE}.new", output / STATE_FILE)

    def _resume(self) -> None:
        """Take up what an interrupted run of the same settings left."""
        path = self._settings.output / STATE_FILE
        if not path.is_file():
            return
        state = torch.load(path, map_location=self._device, weights_only=False)
        if state["settings"] != run_identity(self._settings):
            sys.exit(f"{path} is of other settings ({state['settings']}): choose another folder")
        self._history = state["history"]
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])


def accuracies(model: PictureQuestionModel, questions: Questions) -> dict[str, Any]:
    """Share of right answers by layer of the decoder, and of the last by kind of question."""
    device = model.start.device
    model.eval()
    right = []
    with torch.inference_mode():
        for start in range(0, len(questions.answers), 256):
            rows = np.arange(start, min(start + 256, len(questions.answers)))
            logits = model.all_logits(**to_tensors(questions.inputs(rows), device))
            answers = torch.stack([each.argmax(dim=-1) for each in logits], dim=1).cpu().numpy()
            right.append(answers == questions.answers[rows, None])
    all_right = np.concatenate(right)
    kinds = np.array(questions.kinds)
    by_kind = {kind: all_right[kinds == kind, -1].mean() for kind in sorted(set(questions.kinds))}
    return {
        "accuracy": [round(float(share), 4) for share in all_right.mean(axis=0)],
        "by kind": {kind: round(float(share), 4) for kind, share in by_kind.items()},
    }


def load_model(folder: pathlib.Path) -> PictureQuestionModel:
    """The model that a run wrote."""
    model = PictureQuestionModel()
    model.load_state_dict(torch.load(folder / MODEL_FILE, map_location="cpu", weights_only=True))
    return model.eval()


def run_identity(settings: argparse.Namespace) -> dict[str, Any]:
    """What makes two runs the same run."""
    names = ("epochs", "pictures", "dev_pictures", "seed", "batch_size", "bfloat16", "device")
    return {name: getattr(settings, name) for name in names}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="folder to write")
    parser.add_argument("--epochs", type=int, default=21)
    parser.add_argument(
        "--pictures",
        type=int,
        default=10_000,
        help="new ones for every epoch, eight questions about each",
    )
    parser.add_argument("--dev-pictures", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action="store_true", help="faster where the machine has it")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and save; 0."""
    settings = parse(arguments)
    settings.output.mkdir(parents=True, exist_ok=True)
    Training(settings).run(Console(width=None if sys.stdout.isatty() else 140))
    return 0


if __name__ == "__main__":
    sys.exit(main())
