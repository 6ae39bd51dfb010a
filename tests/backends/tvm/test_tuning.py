"""Tuning on the CPU: the log, its resumption, application and refusals, and a pool of servers."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time

import pytest
import tvm.rpc
import tvm.rpc.server
import tvm.rpc.tracker

import dechaff
from dechaff.backends.tvm import compile_module, resolve_target
from dechaff.backends.tvm.tuning.log_folder import RECORDS, TargetLog, record_lines
from dechaff.backends.tvm.tuning.logs import merge, prune, summaries
from dechaff.ir import UsageError, parse
from tests.dechaff.examples import numbers
from tests.model_runner import random_inputs, run_module

from .compiling import compare_outputs

MODEL = f"""
<ir_version: 10, opset_import: ["" : 23]>
dense (float[B,32] x) => (float[B,64] y)
<float[32,64] weight = {numbers(32, 64)}, float[64] bias = {numbers(64)}>
{{
    product = MatMul (x, weight)
    sum = Add (product, bias)
    y = Gelu (sum)
}}
"""
SIZES = {"B": 32}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    import onnx_ir as ir

    path = tmp_path_factory.mktemp("model") / "dense.onnx"
    ir.save(parse(MODEL).model, path)
    return path


@pytest.fixture(scope="module")
def log(model: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("log")
    result = dechaff.tune(str(model), target="llvm", log=folder, trials=4, sizes=SIZES)
    assert result.added >= 4
    assert all(best is not None for *_, best in result.kernels)
    return folder


def test_a_log_holds_records_a_manifest_and_the_sizes(log: pathlib.Path) -> None:
    (found,) = summaries(log)
    assert found.target["kind"] == "llvm"
    assert found.versions["tvm"] == tvm.__version__
    assert found.records >= 4
    assert found.workloads == 1
    assert found.models[0].sizes["B"] == 32


def test_a_schedule_found_at_one_size_serves_every_size(log: pathlib.Path) -> None:
    module = parse(MODEL)
    compiled = compile_module(module, resolve_target("llvm"), tuning_log=log, sizes=SIZES)
    assert compiled.tuned is not None
    assert len(compiled.tuned.hits) == 1
    assert compiled.tuned.misses == ()
    assert compiled.tuned.unfit == ()
    for batch in (1, 7, 32, 45):
        inputs = random_inputs(module, {"B": batch})
        compare_outputs(run_module(module, inputs), compiled.run(inputs), 1e-5)


def test_the_report_counts_what_the_log_gave(model: pathlib.Path, log: pathlib.Path) -> None:
    optimized = dechaff.optimize(str(model), target="llvm", tuning_log=log)
    assert "tuning log: 1 of 1 kernels take its schedules" in str(optimized.report)


def test_a_log_of_another_target_is_refused(log: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=r"holds nothing for cuda-sm_80.*it holds llvm"):
        TargetLog.find(log, resolve_target('{"kind": "cuda", "arch": "sm_80"}'))


def test_a_log_of_another_version_of_tvm_is_refused(
    log: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tvm, "__version__", "9.9")
    with pytest.raises(UsageError, match=r"tuned with TVM .*, this is 9.9"):
        TargetLog.find(log, resolve_target("llvm"))


def test_a_tuning_log_needs_a_target_with_generated_code(
    model: pathlib.Path, log: pathlib.Path
) -> None:
    with pytest.raises(UsageError, match="target cpu has none"):
        dechaff.optimize(str(model), tuning_log=log)


def test_what_is_in_the_log_counts_when_the_command_is_given_again(
    model: pathlib.Path, log: pathlib.Path
) -> None:
    again = dechaff.tune(str(model), target="llvm", log=log, trials=4, sizes=SIZES)
    assert again.added == 0


def test_logs_are_merged_once_and_pruned_to_the_best(
    log: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (before,) = summaries(log)
    assert merge(tmp_path / "all", [log]) == before.records
    assert merge(tmp_path / "all", [log]) == 0
    assert prune(tmp_path / "all") == (before.records, 1)
    module = parse(MODEL)
    target = resolve_target("llvm")
    compiled = compile_module(module, target, tuning_log=tmp_path / "all", sizes=SIZES)
    assert compiled.tuned is not None
    assert len(compiled.tuned.hits) == 1


def test_a_kill_loses_no_record(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "dechaff", "tune", str(model), "--target", "llvm", "-q"]
    command += ["--log", str(tmp_path), "--trials", "1000", "--sizes", "B=32"]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(f"*/{RECORDS}")) or not _records(tmp_path):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = _records(tmp_path)
    with next(tmp_path.glob(f"*/{RECORDS}")).open("a") as file:
        file.write('[0, [[[["Get')  # what a kill in the middle of a write leaves
    again = dechaff.tune(str(model), target="llvm", log=tmp_path, trials=len(kept) + 2, sizes=SIZES)
    assert again.added >= 2
    assert _records(tmp_path)[: len(kept)] == kept


def _records(log: pathlib.Path) -> list[object]:
    folder = next(log.glob(f"*/{RECORDS}")).parent
    text = (folder / RECORDS).read_text()
    whole = text[: text.rfind("\n") + 1]
    (folder / "whole").mkdir(exist_ok=True)
    (folder / "whole" / RECORDS).write_text(whole)
    return list(record_lines(folder / "whole"))


def test_servers_behind_a_tracker_measure(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tracker = tvm.rpc.tracker.Tracker(host="127.0.0.1", port=39190, port_end=39290, silent=True)
    servers = []
    try:
        servers = [
            tvm.rpc.server.Server(
                host="127.0.0.1",
                port=39300 + 100 * index,
                port_end=39390 + 100 * index,
                key="pool",
                tracker_addr=("127.0.0.1", tracker.port),
                silent=True,
                no_fork=False,
            )
            for index in range(2)
        ]
        result = dechaff.tune(
            str(model),
            target="llvm",
            log=tmp_path,
            trials=4,
            sizes=SIZES,
            rpc=("127.0.0.1", tracker.port, "pool"),
        )
        assert result.added >= 4
    finally:
        for server in servers:
            server.terminate()
        tracker.terminate()


def test_a_kernel_that_does_not_exist_is_named_with_those_that_do(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UsageError, match=r"no kernel is named softmax: there are \w*matmul"):
        dechaff.tune(str(model), target="llvm", log=tmp_path, ops=["softmax"], sizes=SIZES)


def test_a_size_that_the_model_does_not_have_is_refused(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UsageError, match="there is no size batch; the model has B"):
        dechaff.tune(str(model), target="llvm", log=tmp_path, sizes={"batch": 4})
