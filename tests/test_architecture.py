"""The rules of the house: who may import whom, and how files are kept."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "ir": set[str](),
    "frontend": {"ir"},
    "passes": {"ir"},
    "backends": {"ir", "passes"},
    "dechaff": {"ir", "frontend", "passes", "backends"},
}
"""Our own folders that each folder may import, at module level or inside functions."""

HOMES = {
    "torch": (
        "frontend/torch_",
        "dechaff/arrays.py",
        "dechaff/layerwise_loss.py",
        "backends/tvm/cublas_algorithms.py",
        "backends/tvm/cuda_graphs.py",
        "backends/tvm/cutlass_products.py",
        "backends/tvm/library_calls.py",
    ),
    "transformers": ("frontend/torch_",),
    "tvm": ("backends/tvm/",),
    "onnxruntime": ("backends/onnxruntime/",),
    "openvino": ("backends/openvino/",),
    "click": ("dechaff/command_line", "dechaff/view_command.py", "dechaff/explain_command.py"),
}
"""The only files of the product, by the start of their path, that import a package."""

LONGEST_FILE = 300

PRODUCT = sorted(
    path
    for folder in MAY_IMPORT
    for path in (ROOT / folder).rglob("*.py")
    if not (
        path.relative_to(ROOT).parts[0] == "dechaff"
        and path.relative_to(ROOT).parts[1] in MAY_IMPORT
    )
)
"""Files of the product, each once: the links in dechaff/ lead to the same files."""
BESIDE = sorted(
    path
    for folder in ("examples", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if "results" not in path.parts  # what torch.compile wrote
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


each_product_file = pytest.mark.parametrize("path", PRODUCT, ids=name)


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Full names of modules imported anywhere; relative imports stay within a folder."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "dechaff":
                yield from (f"dechaff.{alias.name}" for alias in node.names)
            else:
                yield node.module


def folders_imported(path: pathlib.Path) -> set[str]:
    """Our own folders that a file imports by absolute name."""
    found: set[str] = set()
    for module in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
        parts = module.split(".")
        if parts[0] == "dechaff":
            found.add(parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "dechaff")
    return found


def packages_imported(tree: ast.AST) -> set[str]:
    return {module.split(".")[0] for module in imported_modules(tree)}


def module_level(tree: ast.Module) -> ast.Module:
    """The tree without what is inside functions and ``if TYPE_CHECKING``."""
    body = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    return ast.Module(body=body, type_ignores=[])


def test_the_product_is_found() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in PRODUCT} == set(MAY_IMPORT)


@each_product_file
def test_a_folder_imports_only_folders_below_it(path: pathlib.Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    assert folders_imported(path) <= MAY_IMPORT[folder] | {folder}


@each_product_file
def test_third_party_packages_enter_in_their_homes_only(path: pathlib.Path) -> None:
    imported = packages_imported(ast.parse(path.read_text(encoding="utf-8")))
    strays = {
        package
        for package, homes in HOMES.items()
        if package in imported and not name(path).startswith(homes)
    }
    assert not strays


@each_product_file
def test_torch_is_imported_at_module_level_in_torch_files_only(path: pathlib.Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not name(path).startswith("frontend/torch_"):
        assert "torch" not in packages_imported(module_level(tree))


def test_no_folder_loads_torch_tvm_or_transformers_when_imported() -> None:
    code = (
        "import sys, dechaff, dechaff.ir, dechaff.passes, dechaff.frontend, dechaff.backends\n"
        "import dechaff.optimization, dechaff.command_line\n"
        "sys.exit(', '.join({'torch', 'tvm', 'transformers'} & set(sys.modules)) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}
    assert [name(path) for path in [*PRODUCT, *BESIDE, *TESTS] if path.name in drawers] == []


def test_no_file_is_too_long_to_read() -> None:
    lengths = {name(path): len(path.read_text("utf-8").splitlines()) for path in PRODUCT + BESIDE}
    assert {path: n for path, n in lengths.items() if n > LONGEST_FILE} == {}


def public_definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
                yield from (item for item in methods if not item.name.startswith("_"))


def test_everything_public_says_what_it_is_for() -> None:
    silent = [
        f"{name(path)}: {node.name}"
        for path in PRODUCT + BESIDE
        for node in public_definitions(ast.parse(path.read_text(encoding="utf-8")))
        if ast.get_docstring(node) is None
    ]
    assert silent == []
