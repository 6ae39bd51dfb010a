"""dechaff on a GPU beside torch: is it right, and how fast, over ByteTransformer's grid in float16.

    python -m benchmarks.gpu --output build/gpu
    python -m benchmarks.gpu --batch 16 --sequence 128 512 --rounds 10

It needs a CUDA GPU, torch built for it, TVM (``pip install 'dechaff[tvm]'``) and nvcc, and says
which is missing. First come checks against float64, then, interleaved in one run:

- dechaff: ``default,merge-qkv,convert-precision``, compiled by TVM, CUDA graphs;
- torch eager, and ``torch.compile(mode="reduce-overhead")`` (CUDA graphs) on the padded batch;
- torch packed by hand around ``varlen_attn`` with cuBLAS, eagerly and as a CUDA graph;
- ONNX Runtime on CUDA, if it is installed.

Results are written after every size, as JSON and as a table.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import sys
import time
from typing import Any

from .arguments import positive
from .gpu_checks import AttentionKernel, Check, check_attention, check_model
from .gpu_models import (
    PASSES,
    Batch,
    HandPacked,
    bert_base,
    compiled_by_dechaff,
    onnxruntime_cuda,
    random_batch,
    untyped_torch,
)
from .gpu_report import render
from .gpu_timing import interleaved, kernel_microseconds

SEQUENCES = (32, *range(64, 1025, 64))
BATCHES = (1, 2, 4, 8, 16)
PRODUCTS = ("measured", "library", "generated")


def main() -> int:
    """Run, and write what was measured."""
    options = _options()
    missing = missing_prerequisite()
    if missing is not None:
        print(missing, file=sys.stderr)
        return 2
    import torch

    seed = options.seed if options.seed is not None else time.time_ns() % (1 << 31)
    generator = torch.Generator("cuda").manual_seed(seed)
    run = _Run(options, generator)
    run.results.update(_circumstances(seed, options))
    run.check_attention()
    run.build()
    for batch in options.batch:
        for sequence in options.sequence:
            run.measure(batch, sequence)
    if not options.skip_max_autotune:
        run.measure_max_autotune()
    run.save()
    print(render(run.results))
    return 0 if all(check["passed"] for check in run.results["checks"]) else 1


def missing_prerequisite() -> str | None:
    """One line on what this machine lacks, or None."""
    import shutil

    try:
        import torch
    except ImportError:
        return "benchmarks.gpu needs torch built for CUDA: pip install torch"
    if not torch.cuda.is_available():
        return "benchmarks.gpu needs a CUDA GPU and torch built for CUDA; torch finds none here"
    try:
        import tvm  # noqa: F401
    except ImportError:
        return "benchmarks.gpu needs TVM: pip install 'dechaff[tvm]'"
    if shutil.which("nvcc") is None:
        return "benchmarks.gpu needs nvcc, the compiler of the CUDA toolkit, on PATH"
    return None


class _Run:
    def __init__(self, options: argparse.Namespace, generator: Any) -> None:
        self._options = options
        self._generator = generator
        self._started = time.perf_counter()
        self._kernel = AttentionKernel()
        self.results: dict[str, Any] = {"checks": [], "models": [], "attention": []}

    def check_attention(self) -> None:
        self._record(check_attention(self._kernel, self._generator))

    def build(self) -> None:
        """All contenders from one model, with the same weights."""
        import torch

        model = bert_base(self._options.layers)
        started = time.perf_counter()
        self._compiled = compiled_by_dechaff(model, self._options.products)
        self.results["compilation_seconds"] = round(time.perf_counter() - started, 1)
        self.results["kernels"] = self._compiled.kernels
        self.results["library_calls"] = self._compiled.library_calls
        print(f"compiled by TVM in {self.results['compilation_seconds']} s", flush=True)
        self._reference = bert_base(self._options.layers).double().cuda()
        self._eager = model.half().cuda()
        self._packed = HandPacked(self._eager)
        torch._dynamo.config.cache_size_limit = 256
        self._torch_compiled = torch.compile(self._eager, mode="reduce-overhead", dynamic=False)

    def measure(self, batch: int, sequence: int) -> None:
        """One size: the check, the contenders, the attention alone."""
        import torch

        given = random_batch(batch, sequence, self._generator)
        name = f"model B={batch} S={sequence}"
        if batch * sequence <= 8192:
            self._record([check_model(self._compiled, self._reference, given, name)])
        with torch.no_grad():
            times = interleaved(self._contenders(given), self._options.rounds)
        tokens = int(given.lengths.sum())
        row = {"batch": batch, "sequence": sequence, "tokens": tokens, "milliseconds": times}
        self.results["models"].append(row)
        self.results["attention"].append(self._measure_attention(given))
        text = "  ".join(f"{who} {value:.3f}" for who, value in times.items())
        print(f"B={batch} S={sequence} T={tokens}: {text} ms", flush=True)
        self.save()

    def _contenders(self, given: Batch) -> dict[str, Any]:
        torch = untyped_torch()

        inputs = [given.input_ids, given.attention_mask]
        calls = {
            "dechaff": lambda: self._compiled.run_tensors(inputs),
            "torch eager": lambda: self._eager(*inputs).last_hidden_state,
            "packed by hand": lambda: self._packed(given, graphed=False),
            "packed by hand, graph": lambda: self._packed(given, graphed=True),
        }
        if time.perf_counter() - self._started < self._options.compile_seconds:

            def compiled() -> Any:
                torch.compiler.cudagraph_mark_step_begin()
                return self._torch_compiled(*inputs).last_hidden_state.clone()

            calls["torch.compile"] = compiled
        by_onnxruntime = onnxruntime_cuda(self._eager, given)
        if by_onnxruntime is not None:
            calls["onnxruntime"] = by_onnxruntime
        return calls

    def _measure_attention(self, given: Batch) -> dict[str, Any]:
        """Microseconds of the attention alone: ours, ``varlen_attn``, and torch unfused, padded."""
        torch = untyped_torch()
        from torch.nn.attention.varlen import varlen_attn

        batch, sequence = given.input_ids.shape
        starts = torch.nn.functional.pad(given.lengths.cumsum(0), (1, 0))
        tokens = int(starts[-1])
        qkv = torch.randn(tokens, 2304, device="cuda").half()
        context = torch.empty(tokens, 768, device="cuda").half()
        work = self._kernel.work(starts, tokens)
        q, k, v = (part.unflatten(1, (12, 64)) for part in qkv.chunk(3, 1))
        offsets = starts.int()
        wide = torch.randn(3, batch, 12, sequence, 64, device="cuda").half()
        hidden = torch.where(given.attention_mask.bool()[:, None, None], 0.0, -1e4).half()

        def unfused() -> Any:
            return ((wide[0] @ wide[1].mT) * 0.125 + hidden).softmax(-1) @ wide[2]

        return {
            "batch": batch,
            "sequence": sequence,
            "dechaff": kernel_microseconds(lambda: self._kernel(qkv, work, context)),
            "varlen_attn": kernel_microseconds(
                lambda: varlen_attn(q, k, v, offsets, offsets, sequence, sequence)
            ),
            "unfused": kernel_microseconds(unfused, repeats=5),
        }

    def measure_max_autotune(self) -> None:
        """Whether ``max-autotune`` would have been torch.compile's better mode: at one size."""
        torch = untyped_torch()

        batch, sequence = max(self._options.batch), 512
        given = random_batch(batch, sequence, self._generator)
        tuned = torch.compile(self._eager, mode="max-autotune", dynamic=False)

        def call(function: Any) -> Any:
            torch.compiler.cudagraph_mark_step_begin()
            return function(given.input_ids, given.attention_mask).last_hidden_state.clone()

        calls = {
            "reduce-overhead": lambda: call(self._torch_compiled),
            "max-autotune": lambda: call(tuned),
        }
        with torch.no_grad():
            self.results["torch_compile_modes"] = {
                "batch": batch,
                "sequence": sequence,
                "milliseconds": interleaved(calls, self._options.rounds),
            }
        print(self.results["torch_compile_modes"], flush=True)

    def _record(self, checks: list[Check]) -> None:
        for check in checks:
            verdict = "ok" if check.passed else "WRONG"
            print(f"{verdict}: {check.name}: {check.error:.1e}", flush=True)
            self.results["checks"].append(
                {"name": check.name, "error": check.error, "passed": check.passed}
            )

    def save(self) -> None:
        """Write what there is so far."""
        folder = pathlib.Path(self._options.output)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu.json").write_text(json.dumps(self.results, indent=1) + "\n")
        (folder / "gpu.md").write_text(render(self.results))


def _circumstances(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    import torch
    import tvm

    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "tvm": tvm.__version__,
        "seed": seed,
        "layers": options.layers,
        "products": options.products,
        "passes": PASSES,
        "rounds": options.rounds,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=positive, nargs="+", default=BATCHES)
    parser.add_argument("--sequence", type=int, nargs="+", default=SEQUENCES)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=positive, default=20, help="timed runs of each contender")
    parser.add_argument("--products", choices=PRODUCTS, default="library")
    parser.add_argument("--seed", type=int, help="of the inputs; by default another every time")
    parser.add_argument(
        "--compile-seconds",
        type=float,
        default=float("inf"),
        help="sizes that come later than this are measured without torch.compile, which takes "
        "half a minute for each",
    )
    parser.add_argument("--skip-max-autotune", action="store_true")
    parser.add_argument("--output", default="build/gpu", help="folder for gpu.json and gpu.md")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
