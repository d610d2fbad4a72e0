"""Which kernel set runs, and what the environment variable may say."""

import subprocess
import sys

import pytest

from cachegen import kernels
from cachegen.kernels import cpu, reference, synthesis


def test_the_fastest_set_is_the_default(monkeypatch, isas):
    monkeypatch.delenv("CACHEGEN_KERNELS", raising=False)
    assert kernels.active_set() == f"cpu-{isas[0]}"
    monkeypatch.setenv("CACHEGEN_KERNELS", "cpu")
    assert kernels.active_set() == f"cpu-{isas[0]}"


def test_portable_is_always_there(isas):
    assert isas[-1] == "portable"


def test_every_function_follows_the_choice(monkeypatch, isas):
    for isa in isas:
        monkeypatch.setenv("CACHEGEN_KERNELS", f"cpu-{isa}")
        chosen = kernels._active()
        for function in (chosen.encode, chosen.decode, chosen.synthesise):
            assert function.keywords == {"isa": isa}
    monkeypatch.setenv("CACHEGEN_KERNELS", "reference")
    chosen = kernels._active()
    assert chosen.encode is reference.encode
    assert chosen.decode is reference.decode
    assert chosen.synthesise is synthesis.synthesise


@pytest.mark.parametrize("choice", ("", "gpu", "cpu-avx1024", "Reference"))
def test_unknown_choices_raise(monkeypatch, choice):
    monkeypatch.setenv("CACHEGEN_KERNELS", choice)
    with pytest.raises(ValueError, match="CACHEGEN_KERNELS must be one of"):
        kernels.active_set()


def test_sets_that_do_not_run_here_raise(monkeypatch, make_block):
    monkeypatch.setattr(cpu, "supported_isas", lambda: ["portable"])
    kernels._select.cache_clear()
    monkeypatch.setenv("CACHEGEN_KERNELS", "cpu-avx512")
    with pytest.raises(ValueError, match="runs only portable"):
        make_block(1, 1).encode(kernels)
    kernels._select.cache_clear()


WITHOUT_NATIVE = """
import sys, warnings
sys.modules["cachegen.kernels._native"] = None
from cachegen import kernels
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    names = kernels.active_set(), kernels.active_set()
print(*names, *(w.category.__name__ for w in caught))
"""


def test_without_the_native_module_the_reference_runs_and_warns_once():
    run = [sys.executable, "-c", WITHOUT_NATIVE]
    output = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert output.split() == ["reference", "reference", "RuntimeWarning"]
