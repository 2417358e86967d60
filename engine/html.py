"""Pages of one HTML file: headings, tables and pictures that need no script and load nothing.

Text comes from runs and their files, which are untrusted: all of it is escaped, cut where it has no end, and rid of
what turns the direction of writing.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from PIL import Image

from engine.errors import StoreError, printable
from engine.files import cannot_read
from engine.trust import redact

LONGEST: Final = 300
"""Characters of a text that are shown."""

PICTURE_BYTES: Final = 20 * 2**20
PICTURE_PX: Final = 60_000_000
"""Largest picture that is taken in."""

_DPI: Final = 150  # of ``engine.charts``
_CSS_DPI: Final = 96
_NUMBER: Final = re.compile(r"(?=.*\d|[-–]?$)[-+−–\d.,%()\s]*(?: to [-+−\d.,%\s]+\)?)?")
_STYLE: Final = (
    ":root{--ink:#222;--soft:#5a5a5a;--line:#d9d9d9;--link:#005a8c;--warn:#8a2d00}"
    "body{font:16px/1.5 system-ui,'Liberation Sans',sans-serif;max-width:62rem;margin:0 auto;padding:1.5rem 1rem 4rem;"
    "color:var(--ink);background:#fff}"
    "h1{font-size:1.9rem;line-height:1.2;margin:.2em 0}h2{font-size:1.35rem;margin:2.2em 0 .5em;"
    "border-bottom:2px solid var(--line);padding-bottom:.2em}h3{font-size:1.08rem;margin:1.8em 0 .3em}"
    "p,li{max-width:46rem}a{color:var(--link)}code{font-size:.92em;overflow-wrap:anywhere}"
    ".skip{position:absolute;left:-100rem}.skip:focus{position:static}"
    ".notice{border:2px solid var(--warn);color:var(--warn);font-weight:700;padding:.5em .8em;max-width:none;"
    "overflow-wrap:anywhere}"
    ".note{color:var(--warn)}"
    "nav ol{columns:17rem;padding-left:1.4rem;margin:.4em 0}nav li{break-inside:avoid}"
    ".wide{overflow-x:auto;margin:.3em 0 .2em}"
    "table{border-collapse:collapse;font-size:.88rem;line-height:1.35;font-variant-numeric:tabular-nums;"
    "border-top:2px solid #777;border-bottom:2px solid #777}"
    "th,td{padding:.24em .9em .24em .3em;text-align:left;vertical-align:top;border-bottom:1px solid #ececec;"
    "overflow-wrap:break-word;max-width:26rem}"
    "thead th{border-bottom:1px solid #777;vertical-align:bottom}tbody th{font-weight:400}"
    ".n{text-align:right;white-space:nowrap}"
    "figure{margin:1.2em 0 1.8em}figcaption{color:var(--soft);font-size:.88rem;max-width:46rem;margin:.2em 0;"
    "overflow-wrap:anywhere}figcaption b{color:var(--ink)}"
    "img,.wide>svg{max-width:100%;height:auto;display:block}"
    "@media(max-width:40rem){.wide>img,.wide>svg{width:44rem;max-width:none}h1{font-size:1.5rem}"
    "th,td{max-width:14rem}td,h1{overflow-wrap:anywhere}}"
    "@media print{body{font-size:10pt;max-width:none;padding:0}.skip{display:none}.wide{overflow:visible}"
    "h2,h3,figcaption{break-after:avoid}img,svg,tr{break-inside:avoid}thead{display:table-header-group}"
    "table{font-size:7.5pt}a{color:inherit}}"
)


def text(value: Any) -> str:
    """Return anything as escaped text of bounded length, without secrets and control characters.

    Examples
    --------
    >>> text("<b>\\u202e"), text(None), text("https://a/b?sig=x")
    ('&lt;b&gt;\N{REPLACEMENT CHARACTER}', '', 'https://a/b?sig=***')
    """
    shown = "" if value is None else str(value)[: 10 * LONGEST]
    shown = printable(redact(shown))
    return escape(shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…")


def link(href: str, words: str) -> str:
    """Return a link to a file beside the page."""
    return f'<a href="{escape(quote(href))}">{text(words)}</a>'


def paragraph(words: str, *, note: bool = False) -> str:
    """Return a paragraph of plain text; ``note`` for what a reader must not miss."""
    return f"<p{' class=note' if note else ''}>{text_of_any_length(words)}</p>"


def text_of_any_length(words: str) -> str:
    """Return our own text with `code` in backticks, escaped; what comes from a run is to be cut before."""
    parts = printable(redact(words)).split("`")
    return "".join(f"<code>{escape(part)}</code>" if odd % 2 else escape(part) for odd, part in enumerate(parts))


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], *, label: str = "") -> str:
    """Return a table, the first cell of a row its heading, columns of numbers to the right; ``""`` without rows.

    Parameters
    ----------
    heads : sequence of str
        None of them for a list of names and values.
    rows : iterable of sequence
        Cells of any kind; shown as ``text`` shows them.
    label : str
        What a screen reader calls it.
    """
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not cells:
        return ""
    right = [
        all(_NUMBER.fullmatch(row[at]) for row in cells) and any(row[at] for row in cells)
        for at in range(len(cells[0]))
    ]
    kind = [" class=n" if one else "" for one in right]
    names = "".join(f"<th scope=col{kind[at]}>{text(name)}</th>" for at, name in enumerate(heads))
    head = f"<thead><tr>{names}</tr></thead>\n" if names else ""
    lines = [
        "".join(
            f"<th scope=row{kind[at]}>{text(cell)}</th>" if at == 0 else f"<td{kind[at]}>{text(cell)}</td>"
            for at, cell in enumerate(row)
        )
        for row in cells
    ]
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    named = f' aria-label="{text(label)}"' if label else ""
    return f"<div class=wide role=region tabindex=0{named}><table>{head}<tbody>{body}</tbody></table></div>"


def svg(drawn: str, *, alt: str) -> str:
    """Return a drawing of our own as part of the page."""
    return f'<div class=wide role=img aria-label="{text(alt)}">{drawn[drawn.index("<svg") :]}</div>'


def png(path: Path, *, alt: str) -> str:
    """Return a PNG as part of the page, in 256 colours.

    Parameters
    ----------
    path : Path
    alt : str
        What the picture shows, for who does not see it.

    Raises
    ------
    StoreError
        If it is no PNG of ``PICTURE_BYTES`` and ``PICTURE_PX`` at most.
    """
    try:
        content = path.read_bytes() if path.stat().st_size <= PICTURE_BYTES else b""
        with Image.open(BytesIO(content), formats=["PNG"]) as opened:
            if opened.width * opened.height > PICTURE_PX:
                raise ValueError("too large")
            # Drawn anew, so that nothing but pixels travels; charts have few colours, and these are a third as large.
            few = opened.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        small = BytesIO()
        few.save(small, "PNG", optimize=True)
    except FileNotFoundError as error:
        raise cannot_read(path, error) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise StoreError(f"{path} is no picture of this software ({type(error).__name__})", fix="delete it") from error
    width, height = (round(side * _CSS_DPI / _DPI) for side in few.size)
    data = base64.b64encode(small.getvalue()).decode()
    image = f'<img width={width} height={height} alt="{text(alt)}" src="data:image/png;base64,{data}">'
    return f"<div class=wide role=group tabindex=0>{image}</div>"


@dataclass
class Section:
    """A heading of a page and what stands below it."""

    title: str
    anchor: str
    parts: list[str] = field(default_factory=list)
    """HTML."""


@dataclass
class Captions:
    """Numbers tables and figures of a page in their order."""

    tables: int = 0
    figures: int = 0

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[Any]], caption: str, *files: str) -> str:
        """Return a table below its caption, which names the files that hold it; ``""`` without rows."""
        drawn = table(heads, rows, label=caption)
        if not drawn:
            return ""
        self.tables += 1
        return _figure(f"Table {self.tables}", caption, files, drawn, above=True)

    def figure(self, drawn: str, caption: str, *files: str) -> str:
        """Return a picture above its caption, which names the files that hold what it shows."""
        self.figures += 1
        return _figure(f"Figure {self.figures}", caption, files, drawn, above=False)


def _figure(number: str, caption: str, files: Sequence[str], drawn: str, *, above: bool) -> str:
    beside = f" {', '.join(link(name, name) for name in files)}" if files else ""
    told = f"<figcaption><b>{number}.</b> {text_of_any_length(caption)}{beside}</figcaption>"
    return f"<figure>{told}{drawn}</figure>" if above else f"<figure>{drawn}{told}</figure>"


def document(title: str, sections: Sequence[Section], *, lead: Sequence[str] = (), notice: str = "") -> str:
    """Return a page: title, notice, lead, contents and sections.

    Parameters
    ----------
    title : str
    sections : sequence of Section
    lead : sequence of str
        HTML between title and contents.
    notice : str
        Line that must not be lost, e.g. that the data are simulated.
    """
    warned = f"<p class=notice role=note>{text(notice)}</p>" if notice else ""
    contents = "".join(f'<li><a href="#{escape(one.anchor)}">{text(one.title)}</a></li>' for one in sections)
    body = "\n".join(
        f'<section aria-labelledby="{escape(one.anchor)}"><h2 id="{escape(one.anchor)}">{text(one.title)}</h2>\n'
        + "\n".join(one.parts)
        + "</section>"
        for one in sections
    )
    # Pictures are in the file and nothing else is ever fetched, whatever a name in it tries.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n<body>"
        f'<a class=skip href="#content">Skip to the content</a>\n<header><h1>{text(title)}</h1>{warned}\n'
        + "\n".join(lead)
        + f"</header>\n<nav aria-label=Contents><h2>Contents</h2><ol>{contents}</ol></nav>\n"
        f"<main id=content>\n{body}\n</main></body></html>\n"
    )
