"""Imports only go down: every module is read, and the first upward import fails."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
ROOT = "cachegen"
LAYERS = {
    "errors": 0,
    "kvcache": 0,
    "cores": 0,
    "forks": 0,
    "kernels": 1,
    "codec": 2,
    "bitstream": 3,
    "policy": 3,
    "store": 4,
    "netem": 4,
    "contexts": 5,
    "loading": 6,
    "simulation": 6,
    "server": 6,
    "engines": 7,
    "refmodel": 8,
    ROOT: 9,
    "evaluation": 9,
    "cli": 10,
}
# Policy decides and does nothing. Shaped links are between any two processes; the server knows keys
# and bytes. The simulator drives the controllers of the loader and knows nothing of its threads.
# The reference model is data and its questions, put to it through an engine: it knows no codec.
ALLOWED = {
    "policy": {"policy", "codec", "errors"},
    "netem": {"netem", "errors"},
    "server": {"server", "store", "errors"},
    "simulation": {"simulation", "policy", "contexts", "bitstream", "codec", "errors"},
    "refmodel": {"refmodel", "engines", "errors"},
}
# What would let a policy do I/O, ask a clock or wait.
DOING = {
    "asyncio",
    "http",
    "io",
    "os",
    "pathlib",
    "socket",
    "subprocess",
    "time",
    "torch",
    "urllib",
}


def layer_of(module: str) -> str:
    """`cachegen.codec.plain` is of the layer codec, `cachegen` of the one that makes the API."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ROOT


def imports_of(source: str, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and module of every import of the package, at any depth of the file."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names = [alias.name for alias in node.names]
            is_layer = origin == ROOT
            found = (
                [f"{ROOT}.{n}" if n in LAYERS else ROOT for n in names] if is_layer else [origin]
            )
        else:
            continue
        yield from ((node.lineno, name) for name in found if name.split(".")[0] == ROOT)


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    own = layer_of(module)
    wrong = []
    for line, target in imports_of(source, module, is_package=is_package):
        other = layer_of(target)
        down = other == own or LAYERS[other] < LAYERS[own]
        if not down or other not in ALLOWED.get(own, LAYERS):
            wrong.append(f"{module}:{line} ({own}) imports {target} ({other})")
    return wrong


def modules() -> dict[str, Path]:
    files = sorted((SOURCE / ROOT).rglob("*.py"))
    return {
        ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


def test_every_folder_has_a_layer():
    assert {layer_of(module) for module in modules()} == set(LAYERS)


def test_contributing_has_the_layers():
    groups = [
        ", ".join(name for name, own in LAYERS.items() if own == level)
        for level in sorted(set(LAYERS.values()))
    ]
    text = (SOURCE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"\n    {' -> '.join(groups)}\n" in text


def test_imports_only_go_down():
    found = []
    for module, file in modules().items():
        is_package = file.name == "__init__.py"
        found += violations(file.read_text(encoding="utf-8"), module, is_package=is_package)
    assert found == []


@pytest.mark.parametrize(
    "source",
    (
        "import cachegen.store",
        "import torch, cachegen.store as s",
        "from cachegen.store.url import parse",
        "from cachegen import store",
        "from cachegen import encode",
        "import cachegen",
        "from ..store import url",
        "from .. import store",
        "def f():\n    if True:\n        from cachegen.loading.load import load\n",
        "class A:\n    def f(self):\n        import cachegen.cli\n",
    ),
)
def test_upward_imports_are_seen(source):
    assert len(violations(source, "cachegen.codec.plain")) == 1


@pytest.mark.parametrize(
    "source",
    (
        "from cachegen.codec import paper",
        "from . import paper",
        "from .paper import fit",
        "from cachegen import kernels",
        "from cachegen.errors import BitstreamError",
        "import torch\nfrom cachegenerator import x",
    ),
)
def test_downward_imports_are_fine(source):
    assert violations(source, "cachegen.codec.plain") == []


def test_the_reference_model_knows_no_codec():
    for source in ("from cachegen.kvcache import KVCache", "from cachegen.codec import plain"):
        assert len(violations(source, "cachegen.refmodel.tasks")) == 1
    assert violations("from cachegen.errors import CacheGenError", "cachegen.refmodel.tasks") == []
    assert violations("from .tasks import Task", "cachegen.refmodel", is_package=True) == []


def test_policy_does_no_io():
    for file in sorted((SOURCE / ROOT / "policy").glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        imported = {
            name.split(".")[0]
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        called = {
            node.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not imported & DOING and "open" not in called and "print" not in called, file.name


def test_the_simulator_knows_policies_and_contexts_and_no_loader():
    for source in ("from cachegen.loading.run import Run", "from cachegen.store import Store"):
        assert len(violations(source, "cachegen.simulation.engine")) == 1
    for source in ("from cachegen.policy.fixed import Fixed", "import cachegen.contexts.needs"):
        assert violations(source, "cachegen.simulation.engine") == []


def test_no_folder_is_a_heap():
    counts = {
        folder.name: len(list(folder.glob("*.py")))
        for folder in (SOURCE / ROOT).rglob("*")
        if folder.is_dir()
    }
    assert {name: count for name, count in counts.items() if count > 20} == {}


def test_the_layers_of_the_package_itself():
    assert violations("from .cli import main", "cachegen", is_package=True) != []
    assert violations("from .contexts.save import save", "cachegen", is_package=True) == []


@pytest.mark.parametrize("module", ["cachegen", "cachegen.simulation.workers", "cachegen.server"])
def test_what_needs_no_tensors_starts_without_them(module: str) -> None:
    shows = f"import sys, {module}; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", shows], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
