"""Charts as inline SVG: matplotlib draws them, the page colours them, light or dark.

The drawings have colours that stand for names of the page's style sheet. `svg` puts these names in.
A layer has the same colour, dash and marker everywhere.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from stress.layers import LAYERS

INK, FAINT = "#010101", "#010102"
STYLES = {
    name: (f"#0101{index + 16:02x}", dash, marker)
    for index, (name, dash, marker) in enumerate(
        zip(
            LAYERS,
            ("-", "-", "--", ":", "-.", "-", "--", "-."),
            ("o", "o", "s", "v", "x", "D", "^", "P"),
            strict=True,
        )
    )
}
NAMES = {
    INK: "ink",
    FAINT: "faint",
    **{c: f"layer{i}" for i, (c, _, _) in enumerate(STYLES.values())},
}
SIZE = (4.6, 2.9)  # inches: about a phone's width, so that the letters stay legible there


@dataclass(frozen=True)
class Point:
    """A median, and the smallest and largest of the rounds."""

    x: float
    y: float
    low: float
    high: float


def svg(title: str, draw: Callable[[Any], None], size: tuple[float, float] = SIZE) -> str:
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,  # two charts of a page must not share an id
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "grid.color": FAINT,
        "grid.linewidth": 0.3,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return cleaned(out.getvalue(), title)


def cleaned(text: str, title: str) -> str:
    """Remove the parts that only a separate file needs, and put the page's colours in."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[a-zA-Z0-9]+_\d+"', "", text)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    for colour, name in NAMES.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def cumulative(
    title: str, label: str, distributions: Mapping[str, Sequence[Sequence[float]]]
) -> str:
    """A line for each layer: how many of a hundred took no longer. Further left is better."""

    def draw(axes: Any) -> None:
        for layer, points in distributions.items():
            colour, dash, _ = STYLES[layer]
            axes.plot([p[1] for p in points], [p[0] * 100 for p in points], dash, color=colour)
        axes.set_xscale("log")
        axes.set_yticks([0, 25, 50, 75, 90, 99])
        axes.set_xlabel(label)
        axes.set_ylabel("% took no longer")
        axes.grid(visible=True)
        plain(axes.xaxis)

    return svg(title, draw)


def lines(
    title: str,
    x_label: str,
    y_label: str,
    points: Mapping[str, Sequence[Point]],
    *,
    log: bool = True,
) -> str:
    """A line for each layer, with a bar from the smallest to the largest of the rounds."""

    def draw(axes: Any) -> None:
        for layer, found in points.items():
            colour, dash, marker = STYLES[layer]
            axes.errorbar(
                [p.x for p in found],
                [p.y for p in found],
                yerr=[[p.y - p.low for p in found], [p.high - p.y for p in found]],
                color=colour,
                linestyle=dash,
                marker=marker,
                markersize=4,
                capsize=2,
            )
        every = sorted({p.x for found in points.values() for p in found})
        if log:
            axes.set_xscale("log")
        if log and all(p.low > 0 for found in points.values() for p in found):
            axes.set_yscale("log")
            plain(axes.yaxis)
        else:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(said)
        axes.set_xticks(every, [f"{x:,.0f}" for x in every])
        axes.minorticks_off()
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(visible=True)

    return svg(title, draw)


def over_time(title: str, label: str, series: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """A line for each layer, over the seconds of a measurement."""

    def draw(axes: Any) -> None:
        for layer, points in series.items():
            colour, dash, _ = STYLES[layer]
            axes.plot([p[0] for p in points], [p[1] for p in points], dash, color=colour)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("seconds")
        axes.set_ylabel(label)
        axes.grid(visible=True)

    return svg(title, draw)


def said(value: float, _: int) -> str:
    return f"{value:,.10g}"


def plain(axis: Any) -> None:
    """Label a logarithmic scale with 0.1, 0.2, 0.5, 1, and not with powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(said)
    axis.set_minor_formatter(NullFormatter())
