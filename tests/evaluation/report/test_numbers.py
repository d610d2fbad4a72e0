import pytest

from cachegen.evaluation.report import numbers


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.figure(0.5412), "0.541"),
        (numbers.figure(12345.6), "12,346"),
        (numbers.figure(0.0), "0"),
        (numbers.figure(-2.5), "−2.5"),  # noqa: RUF001
        (numbers.kl(0.0000213), "0.000021"),
        (numbers.times(29.63), "30×"),  # noqa: RUF001
        (numbers.times(651.6), "652×"),  # noqa: RUF001
        (numbers.percent(0.973), "97.3%"),
        (numbers.change(0.0016), "+0.16%"),
        (numbers.points(-0.021), "−2.1"),  # noqa: RUF001
        (numbers.seconds(0.0543), "54.3 ms"),
        (numbers.seconds(12.41), "12.4 s"),
        (numbers.size(1_224_224), "1.22 MB"),
        (numbers.size(900), "900 B"),
        (numbers.link(None), "unshaped"),
        (numbers.interval((0.001, 0.002)), "0.001 to 0.002"),
        (numbers.figure(None), numbers.NOTHING),
    ],
)
def test_numbers_as_people_read_them(shown, expected):
    assert shown == expected
