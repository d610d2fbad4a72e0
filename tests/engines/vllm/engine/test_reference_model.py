"""Lossy levels with the model and the profile that ship with the package, as vLLM loads them.

One process saves through `cachegen serve` and a link of 100 Mbit/s, another one, this, loads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from transformers import AutoTokenizer

from cachegen.codec.levels import PROMISED_KL
from cachegen.netem.opening import open_link
from cachegen.refmodel import exact_match, generate, load_text, weights_path
from tests.engines.vllm.engine.child import ask
from tests.engines.vllm.engine.served import PATIENT, Served, served
from tests.server.conftest import serving

OPTIONS = {"block_size": 32, "max_num_batched_tokens": 1024, "max_logprobs": -1}
NUM_CONTEXT, NUM_ASKED, NUM_FORCED = 1024, 10, 16
# Whole chunks of a context in which questions are asked: those have 968 to 1,017 tokens.
NUM_STORED = 768


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(weights_path())


@pytest.fixture(scope="module")
def questions(tokenizer) -> list[tuple[list[int], str]]:
    """50 prompts, 10 of each of 5 contexts, with their answers."""
    asked = []
    for seed in range(5):
        task = generate(
            "passkey" if seed % 2 else "records",
            num_tokens=NUM_CONTEXT,
            seed=seed,
            count_tokens=lambda text: len(tokenizer(text, add_special_tokens=False).input_ids),
            filler=load_text("heldout-craik"),
            num_questions=NUM_ASKED,
        )
        context = tokenizer(task.context).input_ids
        for question in task.questions:
            ids = tokenizer(question.prompt, add_special_tokens=False).input_ids
            asked.append((context + ids, question.answer))
    assert len(asked) == 50
    return asked


@pytest.fixture(scope="module")
def texts(tokenizer) -> list[list[int]]:
    """Of two texts, prompts of a context and 1 to 16 tokens of what follows."""
    found = []
    for name in ("heldout-anstey", "heldout-chesterton"):
        ids = tokenizer(load_text(name)[20_000:40_000]).input_ids
        found += [ids[: NUM_CONTEXT + more] for more in range(1, NUM_FORCED + 1)]
    return found


@pytest.fixture(scope="module")
def warm(tmp_path_factory, questions, texts) -> Iterator[Served]:
    """An engine with everything stored by another process, and nothing in vLLM's own cache."""
    model = str(weights_path())
    contexts = {tuple(tokens[:NUM_STORED]) for tokens, _ in questions}
    contexts |= {tuple(tokens[:NUM_CONTEXT]) for tokens in texts}
    folder = tmp_path_factory.mktemp("contexts")
    with serving("--store", folder) as server, open_link(100, kind="proxy") as link:
        url = f"cachegen://{link.address(int(server.url.rpartition(':')[2]))}"
        extra = {"store": url, **PATIENT}
        asked = {"model": model, "prompts": sorted(contexts), "options": OPTIONS, "max_tokens": 1}
        saved = ask({**asked, "extra": extra})
        assert saved["counts"]["tokens_saved"] == 5 * NUM_STORED + 2 * NUM_CONTEXT
        with served(model, extra, **OPTIONS) as engine:
            yield engine


@pytest.fixture(scope="module")
def truth(questions, texts) -> tuple[list[list[int]], list[dict[int, float]]]:
    """What vLLM says and expects without a connector."""
    with served(str(weights_path()), **OPTIONS) as engine:
        said = engine([tokens for tokens, _ in questions], max_tokens=6)
        return said, expectations(engine, texts)


def expectations(engine: Served, prompts: list[list[int]]) -> list[dict[int, float]]:
    """Log-probabilities of every token, behind each prompt."""
    out = engine.run(prompts, max_tokens=1, logprobs=-1)
    firsts = (each.outputs[0].logprobs[0] for each in out)
    return [{token: entry.logprob for token, entry in first.items()} for first in firsts]


def test_answers_and_expectations_at_the_default_level(
    truth, warm, questions, texts, tokenizer
) -> None:
    said, expected = truth
    asked = warm.run([tokens for tokens, _ in questions], max_tokens=6)
    assert all(each.num_cached_tokens >= NUM_STORED for each in asked)
    answers = [each.outputs[0].token_ids for each in asked]
    was_right, is_right = (
        [
            exact_match(tokenizer.decode(ids), answer)
            for ids, (_, answer) in zip(texts_of, questions, strict=True)
        ]
        for texts_of in (said, answers)
    )
    words = [[tokenizer.decode(ids).split()[:1] for ids in told] for told in (said, answers)]
    same = sum(before == after for before, after in zip(*words, strict=True))
    assert same >= 0.95 * len(questions), f"{same} answers are the same"
    assert sum(was_right) >= 0.7 * len(questions), "they mean something"
    assert sum(is_right) >= sum(was_right) - 0.05 * len(questions)
    found = expectations(warm, texts)
    divergences = [
        sum(math.exp(p[token]) * (p[token] - q[token]) for token in p)
        for p, q in zip(expected, found, strict=True)
    ]
    mean = sum(divergences) / len(divergences)
    assert 0 < mean <= PROMISED_KL
    counts = warm.counts()
    assert counts["tokens_loaded"] >= 5 * NUM_STORED + 2 * NUM_CONTEXT
    levels = {name for name in counts if name.startswith("chunks_loaded")}
    assert levels and "chunks_loaded:lossless" not in levels
    ratio = counts["tokens_loaded"] * 6 * 2 * 2 * 32 * 2 / counts["bytes_loaded"]
    assert ratio > 5, "keys and values are that many times smaller than in memory"
