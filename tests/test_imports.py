"""Imports point one way, and what runs on a device needs neither torch nor onnx nor TensorRT."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cascadert
from cascadert.bundle import Bundle

ROOT = Path(cascadert.__file__).parent
LAYERS = {"contracts": 0, "export": 1, "runtime": 1, "engines": 2, "calibration": 2, "jetson": 3, "cli": 4}
CONTRACTS = ("scenes",)
HEAVY = ("torch", "torchvision", "onnx", "onnxscript", "onnx_ir", "safetensors")
GPU = ("tensorrt", "tensorrt_rtx", "polygraphy", "cuda", "pycuda")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}


def part_of(module: str) -> str:
    """The part of the package a module of ours belongs to."""
    second = (*module.split("."), "")[1]
    return second if second in LAYERS else "contracts"


def imported(tree: ast.AST) -> Iterator[str]:
    """Every absolute name that a piece of code imports, at whatever depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_by_name(tree: ast.AST) -> Iterator[str]:
    """Every name given to `import_extra` or `import_module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_extra", "import_module"):
            yield from (value.value for value in node.args[:1] if isinstance(value, ast.Constant))


def imported_on_loading(tree: ast.AST) -> Iterator[str]:
    """What is imported when the module is: everything outside functions and `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported(ast.Module([node], []))
        else:
            yield from imported_on_loading(node)


def top(name: str) -> str:
    return name.split(".", 1)[0]


def test_the_package_was_found() -> None:
    by_name = {name for tree in MODULES.values() for name in imported_by_name(tree)}
    assert {"onnxruntime", "av"} <= by_name
    assert {"cascadert.geometry", "cascadert.export.glue", "cascadert.runtime.pipeline"} <= MODULES.keys()
    assert {part_of(module) for module in MODULES} >= LAYERS.keys() - {"cli"}
    known = set(LAYERS) | set(CONTRACTS)
    assert {path.name for path in ROOT.iterdir() if path.is_dir() and list(path.glob("*.py"))} <= known


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    mine = part_of(module)
    for name in imported(MODULES[module]):
        other = part_of(name)
        if top(name) == "cascadert" and other != mine:
            assert LAYERS[other] < LAYERS[mine], f"{module} imports {name}: {mine} is not above {other}"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_a_gpu_library_when_loaded(module: str) -> None:
    assert not {top(name) for name in imported_on_loading(MODULES[module])} & {*GPU}


@pytest.mark.parametrize(
    "module", [module for module in MODULES if part_of(module) in ("runtime", "jetson", "contracts")]
)
def test_what_runs_on_a_device_never_imports_torch_or_onnx(module: str) -> None:
    assert not {top(name) for name in (*imported(MODULES[module]), *imported_by_name(MODULES[module]))} & {*HEAVY}


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True, check=False
    )


BLOCK = f"""
import importlib, importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {(*HEAVY, *GPU)!r}:
            raise ModuleNotFoundError("blocked: " + name, name=name)

sys.meta_path.insert(0, Blocked())
"""


def test_the_device_side_loads_without_torch_onnx_and_tensorrt() -> None:
    modules = [module for module in MODULES if part_of(module) in ("contracts", "runtime", "jetson")]
    done = run_python(BLOCK + "for name in sys.argv[1:]: importlib.import_module(name)", *modules)
    assert done.returncode == 0, done.stderr
    blocked = run_python(BLOCK + "import cascadert.export.glue")
    assert "blocked: torch" in blocked.stderr  # the block is a real one


def test_a_bundle_runs_without_torch_and_onnx(toy_bundle: Bundle) -> None:
    code = """
import numpy as np
from pathlib import Path
from cascadert.bundle import read_bundle
from cascadert.runtime.open import open_pipeline
with open_pipeline(read_bundle(Path(sys.argv[1]))) as pipeline:
    print(pipeline.infer(np.full((40, 56, 3), 90, np.uint8)).labels.shape)
"""
    done = run_python(BLOCK + code, str(toy_bundle.path))
    assert (done.stdout.strip(), done.returncode) == ("(1, 40, 56)", 0), done.stderr


def test_the_package_itself_is_light() -> None:
    done = run_python("import sys, cascadert; print(*sorted(m for m in sys.modules if '.' not in m))")
    assert done.returncode == 0, done.stderr
    assert not {*HEAVY, *GPU, "numpy", "pydantic", "onnxruntime", "typer", "rich", "av", "PIL"} & {*done.stdout.split()}


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module) in ("engines", "cli")])
def test_engines_and_commands_load_without_a_gpu_library(module: str) -> None:
    loaded = {top(name) for name in imported_on_loading(MODULES[module])}
    assert not loaded & {*HEAVY, *GPU}, f"{module} would make --help slow, or need an extra"
