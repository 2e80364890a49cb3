"""Pictures of pages, each drawn for light and for dark ones, as SVG in a data URI."""

import base64
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.cli.shown_text import excerpt

__all__ = ["Picture", "Theme", "dress", "label", "picture"]

_LABEL = 46  # characters of a label: more would take the space of what it labels


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of a page: Okabe and Ito's blue and vermillion, lighter on dark, and greys between text and ground."""

    ink: str
    grid: str
    mute: str
    one: str
    other: str
    low: str


_LIGHT = Theme(ink="#1f2328", grid="#d0d7de", mute="#818b98", one="#0072B2", other="#D55E00", low="#e6e9ec")
_DARK = Theme(ink="#e6edf3", grid="#3d444d", mute="#8b949e", one="#56B4E9", other="#E69F00", low="#2d333b")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture, as data URIs."""

    light: str
    """For light pages."""
    dark: str
    """For dark pages."""


def picture(draw: Callable[[Any, Theme], None], size: tuple[float, float]) -> Picture:
    """A picture.

    Args:
        draw: puts it on a figure of matplotlib, in the colours of a theme.
        size: in inches, of which a page has about 8.4.
    """
    return Picture(light=_svg(draw, _LIGHT, size), dark=_svg(draw, _DARK, size))


def label(axis: Any, place: NDArray[np.int64], labels: Sequence[str]) -> None:
    """Labels places of the vertical axis."""
    axis.set_yticks(place, [excerpt(one, _LABEL) for one in labels])


def dress(axis: Any, theme: Theme) -> None:
    """Gives axes the looks of the page."""
    axis.tick_params(colors=theme.ink, labelsize=9)
    axis.xaxis.label.set_color(theme.ink)
    axis.yaxis.label.set_color(theme.ink)
    axis.grid(True, color=theme.grid, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.patch.set_alpha(0.0)
    for name, spine in axis.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(theme.grid)


def _svg(draw: Callable[[Any, Theme], None], theme: Theme, size: tuple[float, float]) -> str:
    """A figure as SVG in a data URI; the same figure gives the same bytes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # not pyplot: it keeps figures, and may look for a screen

    data = io.BytesIO()
    # Texts stay texts, drawn in the reader's own fonts, which have more scripts than the one that measures them here.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "meshcast", "text.parse_math": False}
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0.0)
        draw(figure, theme)
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(data.getvalue()).decode()
