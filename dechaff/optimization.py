"""``optimize``: from a model to a faster one, with the proof that the answers are the same."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from dechaff.backends import SessionSettings
from dechaff.passes import (
    PassList,
    parse_pass_list,
)

from .calibration import Calibration, CalibrationSource, load_calibration
from .garbage_collection import fewer_collections
from .model_import import batches_of, example_cases, import_model
from .optimization_run import OptimizationRun
from .optimized_model import OptimizedModel
from .progress import Progress, StepCounter, show_progress
from .search import MetricFunction, SearchResult, drive, make_request, searched_passes
from .settings import Config, resolve_settings
from .snapshots import SnapshotWriter
from .trace import tracing


def optimize(
    model: Any,
    example_inputs: Any = None,
    *,
    target: str = "cpu",
    passes: PassList = "default",
    verify: str = "final",
    config: Config | None = None,
    progress: Progress = None,
    trace: str | os.PathLike[str] | None = None,
    snapshots: str | os.PathLike[str] | None = None,
    cache: bool = True,
    session: SessionSettings | None = None,
    tuning_log: str | os.PathLike[str] | None = None,
    products: str = "auto",
    metric: str | MetricFunction | None = None,
    data: Iterable[Any] | None = None,
    max_drop: float = 0.01,
    margin: float = 1.0,
    budget: str | float = "10min",
    mode: str = "speed",
    seed: int = 0,
    search_folder: str | os.PathLike[str] | None = None,
    calibration: CalibrationSource | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> OptimizedModel:
    """Make a model faster without changing its answers, or, with a metric, as far as that allows.

    Args:
        model: a ``torch.nn.Module``, ``ExportedProgram`` or ``GraphModule``; the path of an ONNX
            file; an ``onnx.ModelProto``; or an ``onnx_ir.Model``.
        example_inputs: what the model is called with: a tuple of positional arguments, a mapping of
            named ones, an iterable of these (64 are taken) or an ``.npz`` file. Capture of a torch
            module uses the first; verification runs all, beside inputs that it generates.
        target: ``cpu`` (ONNX Runtime and its own operators), ``openvino``, ``auto`` (the faster of
            these two on this machine; and of an example without padding, whether its removal pays:
            it should be a batch as it is served), ``portable`` (standard operators only); or TVM's
            ``cuda``, ``llvm``, a tag or a target as JSON.
        passes: a pass list such as ``"default,-fuse-bias-gelu"``, or a sequence of these and of
            :class:`dechaff.passes.Pass` objects.
        verify: ``final`` compares the result with the original once; ``each`` compares after every
            pass and leaves out one that changed the numbers; ``off`` compares nothing.
        config: ``target``, ``passes`` and ``verify`` as a mapping or a JSON or TOML file; an
            argument that differs from its default wins over it.
        progress: None shows a bar if stderr is a terminal, False shows nothing, a function is
            called with steps done, number of steps, and a text.
        trace: where to write what each pass did, for ``dechaff view``; written too if the run
            fails. It holds no weights.
        snapshots: an empty folder for the model after each pass that changed it, as ONNX files
            that run; they share one file of weights.
        cache: whether kernel timings and comparisons of earlier runs are used, and new ones kept,
            in the folder ``$DECHAFF_CACHE`` or ``~/.cache/dechaff``.
        session: threads, affinity and memory of the runtime; None for the defaults.
        tuning_log: a folder of ``dechaff tune`` whose schedules generated code takes.
        products: who computes matrix products in generated code: ``generated`` kernels, a
            ``library``, the faster one as ``measured``, or ``auto``; see
            :class:`dechaff.settings.Settings`.
        metric: ``accuracy``, ``f1``, ``spearman``, ``cosine`` (to the original; needs no labels),
            or ``fn(outputs, batch) -> float``, greater is better, where outputs maps names to
            arrays. With it, approximate passes are searched (see :mod:`dechaff.search`).
        data: batches for the metric, each a mapping from input names, and ``labels``, to arrays.
            A third of them is held out from the search, for the report.
        max_drop: how far the metric may fall, in its own units.
        margin: standard errors by which it must stay within that on the searched data, so that it
            does on other data; see :class:`dechaff.search.SearchSettings`.
        budget: time for the search, such as ``"10min"``.
        mode: ``speed`` or ``size`` give up as much of the metric as ``max_drop`` allows;
            ``accuracy`` keeps only what does not hurt.
        seed: which batches are held out, and in what order the others are run.
        search_folder: where the search writes what it found; the same call goes on from there.
        calibration: typical inputs, for passes that measure activations: batches by input name, an
            ``.npz`` file or a folder of them, or a file of text; see
            :func:`dechaff.calibration.load_calibration`.
        tokenizer: for calibration text, a ``tokenizer.json``.

    Returns:
        The optimized model, which is called like the original. Where padding was removed, padded
        positions of its outputs are zero.

    Raises:
        ModelRejectedError: the model cannot be captured or read.
        InputRejectedError: the example inputs do not fit the model.
        UsageError: an unknown pass, option, target or setting.
        VerificationFailedError: the results differ by more than the passes declared.
    """
    started = time.perf_counter()
    settings = resolve_settings(
        config,
        target=target,
        passes=passes,
        verify=verify,
        cache=cache,
        tuning_log=tuning_log,
        products=products,
    )
    request = make_request(
        metric,
        data,
        max_drop=max_drop,
        margin=margin,
        budget=budget,
        mode=mode,
        seed=seed,
        folder=search_folder,
    )
    listed = settings.passes if request is None else searched_passes(settings.passes)
    chosen = parse_pass_list(listed)
    with (
        fewer_collections(),
        show_progress(progress) as report_step,
        tracing(trace, settings) as recorder,
    ):
        steps = StepCounter(report_step, len(chosen) + 3)
        steps.step("capture")
        batches = batches_of(example_inputs)
        module = import_model(model, *batches[:1])
        examples = example_cases(module, batches)
        calibrated: Calibration | None = None
        if calibration is not None:
            calibrated = load_calibration(module, calibration, tokenizer)
            calibrated.use_cache = settings.cache
        found: SearchResult | None = None
        if request is not None:
            threads = session or SessionSettings()
            found, calibrated = drive(
                module, chosen, request, settings, threads, report_step, calibrated
            )
            chosen = list(found.passes)
        writer = SnapshotWriter(snapshots) if snapshots is not None else None
        run = OptimizationRun(
            module,
            examples,
            chosen,
            settings,
            steps,
            _place(model),
            recorder,
            session,
            writer,
            calibrated,
        )
        optimized = run.execute()
        steps.finish()
        report = run.report(time.perf_counter() - started, found)
        if recorder is not None:
            recorder.finished(report)
    return OptimizedModel(optimized, report, session, run.compiled)


def _place(model: Any) -> str:
    """What the user calls the model on the command line."""
    return os.fspath(model) if isinstance(model, (str, os.PathLike)) else "MODEL.onnx"
