"""What the qualities of several domains come to, and which levels keep the promise."""

from dataclasses import replace

import pytest

from cachegen.codec.calibration.calibrate import default_level
from cachegen.codec.levels import EncodingLevel, Quality, worst

GOOD = Quality(kl=0.002, rel_ppl=0.001, top1=0.98, num_tokens=768, rel_ppl_error=0.001)


@pytest.mark.parametrize(
    ("rel_ppl", "error", "keeps"),
    (
        (0.004, None, True),
        (0.006, None, False),
        (0.008, 0.0016, True),
        (0.008, 0.0014, False),
        (-0.01, 0.004, True),
    ),
)
def test_perplexity_breaks_the_promise_where_it_surely_does(rel_ppl, error, keeps):
    own = replace(GOOD, rel_ppl=rel_ppl, rel_ppl_error=error)
    level = EncodingLevel("high", "transform", 0.2, worst({"own": own}), {"own": own})
    assert (default_level((level,)) == "high") is keeps


def test_the_worst_of_domains_is_as_sure_as_the_surest():
    """The largest change may be the least sure: what it is at least is that of another domain."""
    doubtful = replace(GOOD, rel_ppl=0.009, rel_ppl_error=0.004)
    sure = replace(GOOD, rel_ppl=0.007, rel_ppl_error=0.0005)
    found = worst({"doubtful": doubtful, "sure": sure, "good": GOOD})
    assert found.rel_ppl == 0.009
    assert found.least_rel_ppl == pytest.approx(0.006)
    assert found.rel_ppl_error == pytest.approx(0.0015)


def test_an_error_that_one_domain_lacks_is_not_known_of_all():
    unknown = replace(GOOD, rel_ppl_error=None)
    assert worst({"one": GOOD, "other": unknown}).rel_ppl_error is None
    assert worst({"one": GOOD}).rel_ppl_error == pytest.approx(0.001)
