"""Curves of a profile drawn into a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cachegen.cli.curves import Curve, have_bits, level_names
from cachegen.cli.new_file import check_place
from cachegen.codec.levels import PROMISED_KL

_FORMATS = (".svg", ".png")


def check_plot(path: Path) -> Path:
    """Find out before anything is read whether a picture can be drawn there.

    Returns:
        The path, links followed.

    Raises:
        ValueError: a format that is not drawn, a place that cannot be written, or no matplotlib.
    """
    if path.suffix not in _FORMATS:
        raise ValueError(f"expected --plot FILE.svg or FILE.png, got {path}")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--plot {path}: expected matplotlib: pip install 'cachegen[plot]'"
        ) from error
    return check_place(path)


def draw(curves: Sequence[Curve], path: Path) -> None:
    """KL against bits per value, both logarithmic, a line for each domain.

    Where bits are not known KL is drawn against the levels.

    Args:
        curves: of one profile.
        path: its suffix is the format.

    Raises:
        ValueError: there are none.
    """
    if not curves:
        raise ValueError("expected levels that were measured, got a profile without any")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4))
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    known = have_bits(curves)
    for curve in curves:
        across = curve.bits if known and curve.bits else curve.levels
        panel.plot(across, curve.kl, marker="o", ms=4, label=curve.domain)
    panel.axhline(PROMISED_KL, color="black", lw=0.8, ls=":", label=f"promise, {PROMISED_KL:g}")
    panel.set_yscale("log")
    panel.set_ylabel("KL, nats per token")
    panel.set_xlabel("bits per value" if known else "level; bits per value are not known")
    if known:
        panel.set_xscale("log")
        ticks = _ticks([bits for curve in curves for bits in curve.bits or ()])
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
    else:
        panel.set_xticks(range(len(level_names(curves))), level_names(curves))
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small", frameon=False)
    figure.tight_layout()
    with matplotlib.rc_context({"svg.hashsalt": "cachegen"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _ticks(bits: Sequence[float]) -> list[float]:
    """Round numbers of bits from below the smallest to above the largest."""
    round_numbers = [base * 10.0**power for power in (-2, -1, 0, 1) for base in (1, 2, 5)]
    below = max((one for one in round_numbers if one <= min(bits)), default=round_numbers[0])
    above = min((one for one in round_numbers if one >= max(bits)), default=round_numbers[-1])
    return [one for one in round_numbers if below <= one <= above]
