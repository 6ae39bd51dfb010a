"""What a run is asked to do: passes, target, verification; from arguments or a config file."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any, Literal, get_args

from dechaff.ir import UsageError
from dechaff.passes import PassList

VerifyMode = Literal["final", "each", "off"]
VERIFY_MODES: tuple[VerifyMode, ...] = get_args(VerifyMode)

AUTO = "auto"
"""The target that stands for whichever installed runtime is the fastest on the model."""

CODE_TARGETS = ("cuda", "llvm")
"""Targets that TVM generates code for, by name; its tags and targets as JSON are others."""

ProductMode = Literal["auto", "measured", "generated", "library"]
PRODUCT_MODES: tuple[ProductMode, ...] = get_args(ProductMode)

Config = Mapping[str, Any] | str | os.PathLike[str]
"""Settings by name, or the path of a JSON or TOML file that holds them."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of one run.

    Attributes:
        target: what the result is lowered for, ``cpu``, ``openvino`` or ``portable``; ``auto``
            is the faster of the first two; or what TVM generates code for: ``cuda``, ``llvm``, a
            tag of TVM, or a target as JSON.
        passes: the pass list; see :mod:`dechaff.passes`.
        verify: ``final`` compares once at the end, ``each`` after every pass, ``off`` never.
        cache: whether measurements of earlier runs on this machine are used and kept.
        tuning_log: a folder of ``dechaff tune``, for targets that code is generated for.
        products: who computes matrix products with constant weights in generated code:
            ``generated`` kernels, a ``library`` (the vendor's on a GPU, numpy's BLAS on a CPU), or
            for each layer the faster one, as ``measured`` in the tuning log or here. ``auto`` is
            what the log tells, on a GPU that is here also what is measured, and generated
            elsewhere.
    """

    target: str = "cpu"
    passes: PassList = "default"
    verify: str = "final"
    cache: bool = True
    tuning_log: str | None = None
    products: str = "auto"

    def __post_init__(self) -> None:
        from dechaff.backends import TARGETS

        if not is_compiled(self.target):
            _check_choice("target", self.target, (AUTO, *TARGETS, *CODE_TARGETS))
        _check_choice("verify", self.verify, VERIFY_MODES)
        _check_choice("cache", self.cache, (True, False))
        _check_choice("products", self.products, PRODUCT_MODES)
        if self.tuning_log is not None and not is_compiled(self.target):
            raise UsageError(
                f"a tuning log is for generated code, and target {self.target} has none: choose "
                "target llvm or cuda"
            )


def resolve_settings(
    config: Config | None,
    *,
    target: str,
    passes: PassList,
    verify: str,
    cache: bool = True,
    tuning_log: str | os.PathLike[str] | None = None,
    products: str = "auto",
) -> Settings:
    """Combine arguments and config: an argument that differs from its default wins.

    Raises:
        UsageError: the config cannot be read, or holds an unknown key or value.
    """
    given = read_config(config) if config is not None else {}
    arguments = {
        "target": target,
        "passes": passes,
        "verify": verify,
        "cache": cache,
        "tuning_log": None if tuning_log is None else os.fspath(tuning_log),
        "products": products,
    }
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    changed = {key: value for key, value in arguments.items() if value != defaults[key]}
    return Settings(**{**given, **changed})


def read_config(config: Config) -> dict[str, Any]:
    """The settings that a config holds, keys checked.

    Raises:
        UsageError: no such file, not JSON or TOML, or an unknown key.
    """
    if isinstance(config, Mapping):
        values, place = dict(config), "config"
    else:
        values, place = _read_file(pathlib.Path(config)), os.fspath(config)
    known = [field.name for field in dataclasses.fields(Settings)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise UsageError(f"{place}: there is no setting {key!r}: {hint}")
    return values


def _read_file(path: pathlib.Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot read the config file: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise UsageError(f"{path}: not valid {kind}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected a table of settings, got {type(values).__name__}")
    return values


def is_compiled(target: object) -> bool:
    """Whether code is generated for the target, by TVM; runtimes serve the others.

    Whether TVM has such a target is seen when it is asked for it.
    """
    if not isinstance(target, str):
        return False
    return target in CODE_TARGETS or "/" in target or target.lstrip().startswith("{")


def _check_choice(setting: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        known = ", ".join(map(str, choices))
        raise UsageError(f"there is no {setting} {value!r}: choose {known}")
