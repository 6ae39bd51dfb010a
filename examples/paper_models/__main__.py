"""``python -m examples.paper_models [NAME]``: one of the models through dechaff, reported."""

from __future__ import annotations

import argparse

import torch

import dechaff

from . import MODELS


def main() -> None:
    """Optimize the model, and print what became of it."""
    parser = argparse.ArgumentParser(prog="python -m examples.paper_models", description=__doc__)
    parser.add_argument("name", choices=MODELS, nargs="?", default="graphormer")
    torch.manual_seed(0)
    model = MODELS[parser.parse_args().name]().eval()
    inputs, _ = model.example()
    print(dechaff.optimize(model, inputs).report)


if __name__ == "__main__":
    main()
