"""Configurations of vLLM as it makes them of its arguments; no model is loaded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from cachegen.refmodel import weights_path


def vllm_config(folder: Path | None = None, **arguments: Any) -> Any:
    """A ``VllmConfig``; vLLM's own warnings are left aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm.engine.arg_utils import EngineArgs

        given = {"skip_tokenizer_init": True, "enforce_eager": True, "max_model_len": 512}
        made = EngineArgs(model=str(folder or weights_path()), **{**given, **arguments})
        return made.create_engine_config()
