"""Files that are no model, or none that can be worked on: refused in one line."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import onnx
import onnx.defs
import pytest

from dechaff.frontend import from_onnx
from dechaff.ir import ModelRejectedError, UsageError
from tests.frontend.onnx_models import TEXT, proto, refusal, save


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    whole = proto().SerializeToString()
    files = {
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "without_opset": whole[:-4],
        "text": b"this is no model",
        "image": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "model.txt": b"this is no model",
        "binary.txt": b"\xff\xfe\x00",
    }
    messages = {}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        messages[name] = refusal(tmp_path / name)
    assert "is empty" in messages["empty"]
    assert "not an ONNX model" in messages["truncated"]
    assert "not an ONNX model" in messages["without_opset"]
    assert "not an ONNX model" in messages["text"]
    assert "not an ONNX model" in messages["image"]
    assert "not a model in ONNX text form" in messages["model.txt"]
    assert "not a model in ONNX text form" in messages["binary.txt"]


def test_paths_without_a_readable_file_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.onnx")
    assert "a folder" in refusal(tmp_path)
    assert "cannot be read" in refusal("nul\0byte.onnx")


def test_a_file_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    path = save(tmp_path / "model.onnx", proto())
    monkeypatch.setattr(Path, "read_bytes", denied)  # the superuser would be let in
    assert "cannot be read: Permission denied" in refusal(path)


def test_opsets_that_nothing_here_knows_are_refused() -> None:
    newer = refusal(proto(TEXT.replace('"" : 18', '"" : 99')))
    assert "opset 99" in newer
    assert str(onnx.defs.onnx_opset_version()) in newer
    assert "opset 9 is older than 11" in refusal(proto(TEXT.replace('"" : 18', '"" : 9')))


def test_another_type_is_a_misuse() -> None:
    with pytest.raises(UsageError, match="got int"):
        from_onnx(3)  # type: ignore[arg-type]


def test_a_graph_that_breaks_the_rules_is_refused_with_the_operation() -> None:
    model = proto()
    model.graph.node[0].input[1] = "nowhere"
    with pytest.raises(ModelRejectedError, match=r"'nowhere'.*\n.*Mul \(x, nowhere\)"):
        from_onnx(model)


def test_attributes_of_another_kind_than_declared_are_listed_at_once() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[B, 4] x) => (float[B, 4] z)
    {
        y = Softmax <axis = "last"> (x)
        z = Cast (y)
    }
    """
    with pytest.raises(ModelRejectedError) as caught:
        from_onnx(proto(text))
    message = str(caught.value)
    assert "'axis' is STRING, not INT" in message
    assert "'to' is missing" in message


def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path) -> None:
    whole = proto(
        """
        <ir_version: 8, opset_import: ["" : 11, "local" : 1]>
        g (float[B, S, 4] x, bool c) => (float[B, S, 4] y)
        <int64[3] shape = {0, -1, 4}, float[4] w = {1, 2, 3, 4}>
        {
            a = Reshape (x, shape)
            b = If (c) <
                then_branch = yes () => (float[B, S, 4] p) { p = local.f (a) },
                else_branch = no () => (float[B, S, 4] q) { q = Mul (a, w) }
            >
            d = Unsqueeze <axes = [0]> (b)
            y = Squeeze <axes = [0]> (d)
        }
        <domain: "local", opset_import: ["" : 11]>
        f (x) => (y) { y = Softmax <axis = 1> (x) }
        """
    ).SerializeToString()
    path = tmp_path / "model.onnx"
    generator = random.Random(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for place in generator.sample(range(len(whole)), generator.choice([1, 2, 4])):
            damaged[place] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            from_onnx(path)
        except ModelRejectedError:
            refused += 1
    assert refused > 100
