"""What storing costs: every figure follows from sizes, seconds and prices."""

from dataclasses import replace

import pytest

from cachegen.evaluation.results import Row
from cachegen.evaluation.sections.cost import REUSES, Prices, Stored, costs_of, sizes_of

STORED = Stored(
    num_tokens=1000,
    size_bytes={"high": 2_000_000, "8-bit": 40_000_000},
    text_bytes=2000,
    prefill_s=2.0,
    decode_s=0.2,
    encode_s=0.9,
)
PRICES = Prices(gb_month=0.5, machine_hour=4.0)


def figures(stored: Stored = STORED, prices: Prices = PRICES) -> dict[str, float]:
    return {one.what: one.value for one in costs_of(stored, prices)}


def test_figures_by_hand():
    found = figures()
    assert found["computing 1,000 times"] == pytest.approx(1000 * 2 * 4 / 3600)
    assert found["storing 1,000 contexts, high"] == pytest.approx(1000 * 0.002 * 0.5)
    spared = 1.8 * 4 / 3600
    assert found["storing pays from, high"] == pytest.approx(0.002 * 0.5 / spared)
    assert found["storing pays from, 8-bit"] == pytest.approx(0.04 * 0.5 / spared)
    assert found["encoding pays from"] == pytest.approx(0.5)
    assert found["loading pays below a price of transfer of"] == pytest.approx(spared / 0.002)
    assert found["moved for a reuse, high, over the text"] == 1000


def test_at_the_break_even_storing_costs_what_it_spares():
    reuses = figures()["storing pays from, high"]
    month = figures()["storing 1,000 contexts, high"] / 1000
    each = (figures()["computing 1,000 times"] - figures()["loading 1,000 times"]) / 1000
    assert reuses * each == pytest.approx(month)


def test_every_formula_says_what_is_assumed():
    for one in costs_of(STORED, PRICES):
        assert one.formula
        if "$" in one.formula:
            assert "(assumed)" in one.formula
            assert "$0.5 a GB and month" in one.formula or "$4 an hour" in one.formula


def test_where_decoding_is_slower_than_computing_nothing_pays():
    slow = replace(STORED, decode_s=2.0)
    assert REUSES not in {one.unit for one in costs_of(slow, PRICES)}


@pytest.mark.parametrize("wrong", ({"gb_month": 0.0}, {"machine_hour": -1.0}))
def test_prices_are_above_nothing(wrong):
    with pytest.raises(ValueError, match="expected prices above 0"):
        Prices(**wrong)


def test_sizes_are_those_of_the_dataset_that_takes_most():
    def row(method: str, level: str, dataset: str, bits: float) -> Row:
        return Row(method, level, dataset, 100, bits, 0.0, 1.0, 2)

    rows = [
        row("cachegen", "low", "a", 0.5),
        row("cachegen", "high", "a", 1.0),
        row("cachegen", "high", "b", 2.0),
        row("uniform", "8", "a", 8.5),
    ]
    assert sizes_of(rows, ("cachegen", "high"), num_values=800) == {
        "high": 200, "all 2 levels": 250, "8-bit": 850
    }  # fmt: skip
    assert sizes_of(rows, ("adaptive", "high"), num_values=800) == {}
