"""Curves of a profile: as numbers, as characters, as pictures, and without bits."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachegen import refmodel
from cachegen.cli import app
from cachegen.cli.curves import LEAST_KL, curves_of
from cachegen.cli.curves_text import draw_text
from cachegen.codec.profile import read_profile

BITS = {"lowest": 0.25, "low": 0.5, "medium": 1.0, "high": 2.0, "highest": 4.0}


def levels(*, bits: bool, domains: tuple[str, ...] = ("novels", "chat")) -> list[dict]:
    """As `explain_profile` has them."""
    rows = []
    for index, (name, own) in enumerate(BITS.items()):
        found = {"kl": 0.1 / 10**index, **({"bits_per_value": own} if bits else {})}
        rows.append({"name": name, "domains": dict.fromkeys(domains, found)})
    return rows


def test_curves_have_a_point_for_every_level() -> None:
    novels, chat = curves_of(levels(bits=True))
    assert (novels.domain, chat.domain) == ("novels", "chat")
    assert novels.levels == tuple(BITS) and novels.bits == tuple(BITS.values())
    assert novels.kl == pytest.approx((0.1, 0.01, 0.001, 1e-4, 1e-5))
    nothing_lost = [{"name": "low", "domains": {"a": {"kl": 0.0}}}]
    assert curves_of(nothing_lost)[0].kl == (LEAST_KL,)
    assert curves_of([{"name": "low"}]) == []


def test_a_picture_of_characters_falls_to_the_right() -> None:
    lines = draw_text(curves_of(levels(bits=True, domains=("novels",)))).splitlines()
    assert lines[0] == "KL, nats per token"
    places = [line.index("o") for line in lines[1:-3] if "o" in line]
    assert len(places) == 5 and places == sorted(places)
    assert lines[1].split()[:2] == ["0.1", "┤o"]
    assert lines[-2].split() == ["0.25", "bits", "per", "value", "4.00"]
    assert lines[-1].split() == ["o", "novels"]


def test_domains_that_fall_together_are_told() -> None:
    shown = draw_text(curves_of(levels(bits=True)))
    assert shown.count("=") == 5 and "o novels   x chat" in shown


def test_without_bits_levels_are_drawn() -> None:
    shown = draw_text(curves_of(levels(bits=False)))
    assert "bits" not in shown
    assert shown.splitlines()[-2].split() == list(BITS)


def test_one_point_can_be_drawn() -> None:
    one = curves_of(levels(bits=True, domains=("novels",))[:1])
    assert draw_text(one).count("o") == 4  # in the title, the mark, the legend and the name


@pytest.fixture
def profiles(tmp_path: Path) -> dict[str, Path]:
    """One that knows no bits, as earlier versions made them, and one that does."""
    old = read_profile(refmodel.profile_path("plain"))

    def with_bits(quality, bits):
        return quality and replace(quality, bits_per_value=bits)

    def at(bits):
        return tuple(
            replace(
                level,
                quality=with_bits(level.quality, bits and bits * BITS[level.name]),
                domains={
                    name: with_bits(one, bits and bits * BITS[level.name])
                    for name, one in level.domains.items()
                },
            )
            for level in old.levels
        )

    paths = {"old": tmp_path / "old", "new": tmp_path / "new"}
    paths["old"].write_bytes(replace(old, levels=at(None)).file_bytes)
    paths["new"].write_bytes(replace(old, levels=at(1.5)).file_bytes)
    return paths


def inspect(*arguments: object) -> str:
    command = ["inspect", *map(str, arguments)]
    return str(CliRunner().invoke(app, command, catch_exceptions=False).stdout)


def test_inspect_draws_and_tells_the_same_numbers(profiles: dict[str, Path]) -> None:
    shown = inspect(profiles["new"])
    assert "bits per value" in shown and "bits_per_value 0.75" in shown
    assert "sizes" not in shown
    found = json.loads(inspect(profiles["new"], "--json"))
    names = [level["name"] for level in found["levels"]]
    for level in found["levels"]:
        assert level["bits_per_value"] == 1.5 * BITS[level["name"]]
        assert all(one["bits_per_value"] for one in level["domains"].values())
    assert names


def test_an_older_profile_says_why_it_shows_kl_only(profiles: dict[str, Path]) -> None:
    data = profiles["old"].read_bytes()
    assert b"bits_per_value" not in data
    shown = inspect(profiles["old"])
    assert "made before calibration measured bits per value" in shown
    assert "KL, nats per token" in shown
    found = json.loads(inspect(profiles["old"], "--json"))
    assert "calibrate again" in found["sizes"]
    assert "bits_per_value" not in found["levels"][0]


@pytest.mark.parametrize("which", ("old", "new"))
@pytest.mark.parametrize(("suffix", "start"), ((".svg", b"<?xml"), (".png", b"\x89PNG")))
def test_a_picture_is_drawn_to_a_file(
    profiles: dict[str, Path], tmp_path: Path, which: str, suffix: str, start: bytes
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"curve{suffix}"
    inspect(profiles[which], "--plot", path)
    first = path.read_bytes()
    assert first.startswith(start)
    inspect(profiles[which], "--plot", path)
    assert path.read_bytes() == first


def refusal(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    assert isinstance(result.exception, ValueError), result.output
    return str(result.exception)


def test_what_cannot_be_drawn_is_refused(
    profiles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, chunk = profiles["new"], tmp_path / "chunk"
    chunk.write_bytes(b"CGKV")
    assert "FILE.svg or FILE.png" in refusal(new, "--plot", tmp_path / "curve.gif")
    assert "expected a profile to plot" in refusal(chunk, "--plot", tmp_path / "curve.svg")
    assert "there is no folder" in refusal(new, "--plot", tmp_path / "none" / "curve.svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'cachegen[plot]'" in refusal(new, "--plot", tmp_path / "curve.svg")
    assert not (tmp_path / "curve.svg").exists()
