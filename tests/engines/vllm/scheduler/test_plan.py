from __future__ import annotations

import pytest

from cachegen.engines.vllm.costs import TRIAL_SHARE, Learned
from cachegen.engines.vllm.scheduler.plan import Prospect
from cachegen.policy.controller import ChunkState, Option
from cachegen.policy.costs import Costs, DecodeCost, PrefillCost

LOW, HIGH = 100_000, 200_000


def prospect(*stops: int, prompt: int = 1100, block: int = 16) -> Prospect:
    starts = (0, *stops[:-1])
    options = (Option("low", LOW, 0), Option("high", HIGH, 1))
    chunks = [ChunkState(a, b, options) for a, b in zip(starts, stops, strict=True)]
    return Prospect(chunks, prompt_tokens=prompt, block_tokens=block, default_rank=1)


def learned(rate: float | None, *, token_s: float | None = 0.001) -> Learned:
    prefill = None if token_s is None else PrefillCost(0.0, token_s)
    return Learned(Costs(prefill, {"high": DecodeCost(0.01)}, request_s=0.02), rate)


def test_everything_is_loaded_while_nothing_is_known() -> None:
    plan = prospect(256, 512, 1024).plan(0, Learned(), None)
    assert plan.stop == 1024 and plan.total_s is None and plan.pays(100.0)


@pytest.mark.parametrize("local", [0, 256, 300])
def test_a_fast_link_brings_all_that_vllm_lacks(local: int) -> None:
    plan = prospect(256, 512, 1024).plan(local, learned(1e8), None)
    assert plan.stop == 1024
    assert plan.total_s == pytest.approx(plan.load_s + 0.001 * (1100 - 1024))
    assert plan.compute_s == pytest.approx(0.001 * (1100 - local))
    num_chunks = 3 if local < 256 else 2
    arrives_s = 0.02 + num_chunks * HIGH / 1e8
    assert plan.load_s == pytest.approx(max(arrives_s, 0.02 + HIGH / 1e8 + 0.01 * 2) + 0.01, 0.2)


def test_a_slow_link_brings_nothing() -> None:
    plan = prospect(256, 512, 1024).plan(0, learned(1e5), None)
    assert plan.stop == 0


def test_a_trial_brings_all_that_vllm_lacks_and_is_worth_a_wait_of_its_own_only() -> None:
    found = prospect(256, 512, 1024)
    assert found.plan(256, learned(1e5), None).stop == 256
    trial = found.trial(256, learned(1e5))
    assert trial.stop == 1024 and trial.load_s == pytest.approx(TRIAL_SHARE * trial.compute_s)
    assert trial.pays(0.0) and not trial.pays(trial.compute_s)


def test_a_middling_link_brings_chunks_that_pay() -> None:
    """The last chunk has twice as many tokens for its bytes: it pays where the others do not."""
    rate = HIGH / 0.2
    assert prospect(256, 512, 1024).plan(0, learned(rate), None).stop == 1024
    assert prospect(256, 320, 384, 448).plan(0, learned(rate), None).stop == 256


def test_a_load_behind_others_pays_as_long_as_it_ends_first() -> None:
    plan = prospect(256, 512, 1024).plan(0, learned(1e8), None)
    spare_s = plan.compute_s - plan.total_s
    assert plan.pays(spare_s - 0.01) and not plan.pays(spare_s + 0.01)


def test_a_deadline_is_met_at_a_smaller_level() -> None:
    found, known = prospect(256, 512, 1024), learned(1e6, token_s=0.1)
    good, bad = found.plan(0, known, 9.0), found.plan(0, known, 8.0)
    assert (good.stop, bad.stop) == (1024, 1024)
    assert bad.load_s < good.load_s


def test_chunks_that_begin_inside_a_block_end_what_is_usable() -> None:
    assert prospect(256, 320, 512, block=128).stop == 256
    assert prospect(256, 512, 576, block=128).stop == 512
    assert prospect(64, block=128).stop == 0


def test_a_plan_is_kept_until_something_changes() -> None:
    found, known = prospect(256, 512), learned(1e8)
    plan = found.plan(0, known, None)
    assert found.plan(0, known, None) is plan
    assert found.plan(0, learned(1e7), None) is not plan
    assert found.chunk_stop(0) == found.chunk_stop(255) == 256
