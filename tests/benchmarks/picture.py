"""The curves as a picture; needs matplotlib, which only the ``dev`` extra brings."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.benchmarks.figures import Curve, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HOW_TO_GET_IT = "the picture is left out: matplotlib is not installed; get it with: pip install 'ragstore[dev]'"
_COLOURS = {"ragstore": "#1f6feb", "plain": "#d1242f", "raw": "#6e7781"}


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(curves: Sequence[Curve], path: str) -> None:
    """Write a picture, one panel for each curve; the name's ending says which format."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams |= {"svg.hashsalt": "ragstore", "svg.fonttype": "none"}  # the same results, the same small file
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.4), squeeze=False)
    for axes, curve in zip(panels[0], curves, strict=True):
        _panel(axes, curve)
    figure.tight_layout()
    is_svg = os.path.splitext(path)[1].lower() == ".svg"
    figure.savefig(path, dpi=150, metadata={"Date": None} if is_svg else None)
    plt.close(figure)


def _panel(axes: Axes, curve: Curve) -> None:
    for who, points in curve.points.items():
        sizes, values = [n for n, _ in points], [value for _, value in points]
        axes.plot(sizes, values, marker="o", label=who, color=_COLOURS.get(who))
        axes.annotate(
            number(values[-1]), (sizes[-1], values[-1]), textcoords="offset points", xytext=(0, 6), fontsize=8
        )
    ticks = sorted({n for points in curve.points.values() for n, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks], fontsize=7)
    axes.minorticks_off()
    axes.set_ylim(0, 1.2 * max(value for points in curve.points.values() for _, value in points))
    axes.set_title(f"{curve.title}, {curve.unit}", fontsize=10)
    axes.set_xlabel("nodes in the collection", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
