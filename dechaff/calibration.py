"""Calibration data: inputs that stand for those a model will be served, from where they come."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from dechaff.ir import InputRejectedError, MissingPackageError, Module, UsageError

from .arrays import Arrays, check_inputs, read_arrays, runtime_inputs
from .cache import cached
from .calibration_trials import OutputTrials
from .calibration_walk import ActivationWalk
from .corpus_tokens import CorpusTokens
from .digests import batches_digest, module_digest
from .input_roles import Role, input_roles
from .versions import package_versions

CalibrationSource = Iterable[Mapping[str, Any]] | str | os.PathLike[str]
"""Batches of inputs by name; an ``.npz`` file or a folder of them; or a file of text."""

_TEXT_BATCH = 16
_MAX_TOKENS = 128
_MAX_LINES = 512
_ROWS_OF_TRIALS = 128
"""About as many rows are enough to compare models by their outputs."""


class Calibration:
    """Checked batches of inputs.

    Attributes:
        batches: an array per graph input, by name, for each batch.
        source: where they come from, for messages.
        tokens: what the tokenizer says of the whole text; None if no tokenizer was given.
        use_cache: whether to keep what was measured on the data between runs.
    """

    def __init__(
        self,
        batches: Sequence[Arrays],
        source: str,
        tokens: CorpusTokens | None = None,
        *,
        use_cache: bool = False,
    ) -> None:
        self.batches = batches
        self.source = source
        self.tokens = tokens
        self.use_cache = use_cache

    def walk(self, module: Module) -> ActivationWalk:
        """Begin a walk of all batches through a graph with the same inputs."""
        return ActivationWalk(module, self.batches)

    def trials(self, module: Module, constants: Sequence[ir.Value]) -> OutputTrials:
        """Run the module on some batches, to compare with it when constants hold other numbers."""
        step = max(1, self.num_samples // _ROWS_OF_TRIALS)
        return OutputTrials(module, self.batches[::step], constants)

    def measured(self, what: str, module: Module, measure: Callable[[], Any]) -> Any:
        """What was measured of a module on this data, now or in an earlier run."""
        if not self.use_cache:
            return measure()
        key = {
            "measured": what,
            "module": module_digest(module),
            "data": self.digest(),
            **package_versions(),
        }
        return cached(key, measure)

    def digest(self) -> str:
        """Names the data: the same arrays in the same order."""
        return batches_digest(self.batches)

    @property
    def num_samples(self) -> int:
        """Number of rows in all batches."""
        return sum(len(next(iter(batch.values()))) for batch in self.batches if batch)


def load_calibration(
    module: Module, source: CalibrationSource, tokenizer: str | os.PathLike[str] | None = None
) -> Calibration:
    """Read calibration data and check it against a model.

    Args:
        module: the model; the names, types and sizes of its inputs must fit.
        source: an iterable of mappings from input names to arrays or tensors; the path of an
            ``.npz`` file, or of a folder of them, one batch each; or the path of a text file, one
            sentence in a line, of which the first 512 that are not empty are taken.
        tokenizer: for a text file, a ``tokenizer.json`` of the ``tokenizers`` library; with arrays,
            it says which tokens are special.

    Raises:
        InputRejectedError: names, types or sizes do not fit, or a number is not finite.
        UsageError: a path does not exist or holds something else, or there is no batch at all.
        MissingPackageError: text is given and the package ``tokenizers`` is not installed.
    """
    if isinstance(source, (str, os.PathLike)):
        place = os.fspath(source)
        given = _from_path(module, pathlib.Path(source), tokenizer)
    else:
        place = "calibration"
        given = list(source)
    batches = [_checked(module, batch, f"{place}, batch {i}") for i, batch in enumerate(given)]
    batches = [batch for batch in batches if all(array.size for array in batch.values())]
    if not batches:
        raise UsageError(
            f"{place}: the calibration data is empty; give some batches of typical inputs"
        )
    return Calibration(batches, place, _tokens(source, tokenizer))


def _tokens(
    source: CalibrationSource, tokenizer: str | os.PathLike[str] | None
) -> CorpusTokens | None:
    if tokenizer is None:
        return None
    path = pathlib.Path(source) if isinstance(source, (str, os.PathLike)) else None
    is_text = path is not None and path.is_file() and path.suffix != ".npz"
    return CorpusTokens(_read_tokenizer(pathlib.Path(tokenizer)), path if is_text else None)


def _checked(module: Module, batch: Any, place: str) -> Arrays:
    if not isinstance(batch, Mapping):
        raise UsageError(
            f"{place}: expected a mapping from input names to arrays, got {type(batch).__name__}"
        )
    try:
        arrays = check_inputs(module, batch)
    except InputRejectedError as error:
        raise InputRejectedError(f"{place}: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputRejectedError(
                f"{place}: input {name!r} holds NaN or infinity, of which no range can be made"
            )
    return arrays


def _from_path(
    module: Module, path: pathlib.Path, tokenizer: str | os.PathLike[str] | None
) -> Sequence[Mapping[str, Any]]:
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise UsageError(f"{path}: the folder holds no .npz file of calibration data")
        return [read_arrays(os.fspath(file), "calibration") for file in files]
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file or folder of calibration data")
    if path.suffix == ".npz":
        return [read_arrays(os.fspath(path), "calibration")]
    if tokenizer is None:
        raise UsageError(
            f"{path}: a text file of calibration data needs a tokenizer: "
            "give --tokenizer tokenizer.json (in Python: tokenizer=)"
        )
    return _from_text(module, path, pathlib.Path(tokenizer))


def _from_text(
    module: Module, path: pathlib.Path, tokenizer_path: pathlib.Path
) -> Sequence[Mapping[str, Any]]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot read the calibration text: {error}") from error
    sentences = [line for line in lines if line][:_MAX_LINES]
    tokenizer = _read_tokenizer(tokenizer_path)
    encodings = tokenizer.encode_batch(sentences)
    rows = [encoding.ids[:_MAX_TOKENS] for encoding in encodings]
    return [
        _padded(module, rows[start : start + _TEXT_BATCH])
        for start in range(0, len(rows), _TEXT_BATCH)
    ]


def _read_tokenizer(path: pathlib.Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingPackageError(
            "tokenizers", "examples", "a text file of calibration data"
        ) from error
    try:
        tokenizer = Tokenizer.from_file(os.fspath(path))
    except Exception as error:  # the library raises bare exceptions
        raise UsageError(f"{path}: not a tokenizer.json: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _padded(module: Module, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Token ids, padded on the right, and masks of them, for inputs told from their uses."""
    longest = max(len(row) for row in rows)
    mask = np.array([[int(i < len(row)) for i in range(longest)] for row in rows], np.int64)
    ids = np.array([[*row, *[0] * (longest - len(row))] for row in rows], np.int64)
    roles = {role.value.name or "": role.role for role in input_roles(module)}
    batch: dict[str, Any] = {}
    for value in runtime_inputs(module):
        name = value.name or ""
        if roles.get(name) is Role.MASK:
            batch[name] = mask
        elif roles.get(name) is Role.IDS and "type" not in name and "position" not in name:
            batch[name] = ids
        elif "type" in name:
            batch[name] = np.zeros_like(ids)
        elif "position" in name:
            batch[name] = np.broadcast_to(np.arange(longest), ids.shape).copy()
        else:
            raise UsageError(
                f"{module.source}: input {name!r} is neither token ids nor their mask; "
                "give calibration data as .npz files"
            )
    return batch
