"""Pages: one self-contained file of HTML, without scripts, that reads in light and in dark and by a screen reader.

They are well-formed XML too, so that a strict parser can check them.
"""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from meshcast.cli.picture import Picture
from meshcast.cli.problem import Problem, need_matplotlib
from meshcast.cli.shown_text import shown
from meshcast.columns import written_whole

__all__ = ["Html", "check_html", "figure", "page", "paragraph", "quoted", "section", "table", "text", "write_page"]

# A page's own words cannot load or run anything, whatever a text of a stranger says.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d0d7de; --card: #f6f8fa; --ground: #ffffff;
  --up: #cfe8f7; --down: #fbdcc4; --link: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --card: #151b23;
  --ground: #0d1117; --up: #0b4a72; --down: #7a3b08; --link: #79c0ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--ground);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
p { margin: .5rem 0; } .soft { color: var(--soft); font-size: .9rem; }
figure { margin: 1rem 0; } figure img { display: block; max-width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; color: var(--soft); padding: .25rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; } th { font-weight: 600; }
td.word, th.word { white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; color: var(--link); padding: .2rem 0; }
.quoted { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
mark { color: inherit; border-radius: .2rem; padding: 0 .1rem; } mark.up { background: var(--up); }
mark.down { background: var(--down); text-decoration: underline dotted; }
.verdict { font-size: 1.15rem; font-weight: 600; background: var(--card); border: 1px solid var(--line);
  border-left: .5rem solid #009e73; border-radius: .5rem; padding: .8rem 1rem; overflow-wrap: anywhere; }
.verdict.low { border-left-color: #0072b2; } .verdict.moderate { border-left-color: #e69f00; }
.verdict.high { border-left-color: #d55e00; } .verdict.critical { border-left-color: #cc79a7; }
""".strip()


class Html(str):
    """Text that is HTML already: what is not is escaped wherever it is put in."""

    __slots__ = ()


def text(value: object) -> Html:
    """A value as HTML: escaped unless it is HTML, control characters shown, a direction of its own."""
    return value if isinstance(value, Html) else Html(html.escape(shown(str(value)), quote=True))


def quoted(value: str) -> Html:
    """A text of a stranger in a line of ours: its direction stays its own."""
    return Html(f'<bdi dir="auto">{text(value)}</bdi>')


def paragraph(value: object, *, is_soft: bool = False) -> Html:
    """A paragraph; soft ones are remarks."""
    css = ' class="soft"' if is_soft else ""
    return Html(f"<p{css}>{text(value)}</p>")


def section(title: str, parts: Iterable[Html]) -> Html:
    """A section of the page."""
    return Html(f"<section><h2>{text(title)}</h2>{''.join(parts)}</section>")


def table(
    caption: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    numbers: Sequence[int] = (),
    words: Sequence[int] = (),
) -> Html:
    """A table.

    Args:
        caption: what it shows.
        headings: of its columns.
        rows: its cells.
        numbers: columns that are set as numbers, counted from 0.
        words: columns of short words, which are not broken.
    """

    def cell(kind: str, at: int, value: object, scope: str = "") -> str:
        css = ' class="number"' if at in numbers else ' class="word"' if at in words else ""
        return f"<{kind}{css}{scope}>{text(value)}</{kind}>"

    head = "".join(cell("th", at, heading, ' scope="col"') for at, heading in enumerate(headings))
    body = "".join("<tr>" + "".join(cell("td", at, one) for at, one in enumerate(row)) + "</tr>" for row in rows)
    return Html(
        f'<div class="wide"><table><caption>{text(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(picture: Picture, alt: str, told: str, beside: Html) -> Html:
    """A picture.

    Args:
        picture: the picture.
        alt: what it is, for who does not see it.
        told: what it shows, for everybody.
        beside: the table of its numbers.
    """
    return Html(
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{picture.dark}"/>'
        f'<img src="{picture.light}" alt="{text(alt)}"/></picture>'
        f"<figcaption>{paragraph(told, is_soft=True)}"
        f"<details><summary>The numbers</summary>{beside}</details></figcaption></figure>"
    )


def page(title: str, parts: Iterable[Html]) -> str:
    """A whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        '<meta name="referrer" content="no-referrer"/>'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{text(title)}</h1>{''.join(parts)}</main></body></html>\n"
    )


def check_html(path: Path) -> None:
    """Refuses a page that could not be written, before anything is asked.

    Raises:
        Problem: its kind or folder is none, or the extra `plot` is not installed.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise Problem(f"--html {path}: unknown kind of page", way_out="end its name with .html")
    if not path.parent.is_dir():
        raise Problem(f"--html {path}: there is no folder {path.parent}")
    need_matplotlib("a page with plots")


def write_page(path: Path, content: str) -> None:
    """Writes a page, which appears under its name only when it is whole."""
    with written_whole(path) as part:
        part.write_text(content, "utf-8")
