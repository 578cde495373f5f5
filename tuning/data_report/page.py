"""Reports as one self-contained HTML page: no script, no network, every text escaped."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_builders.findings import CODES
from tuning.chat.preview import visible
from tuning.data_report import svg
from tuning.data_report.report import compared_shares, shares

FOLDER = Path(__file__).parent

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")


def report_html(report: Mapping[str, Any], compared: Mapping[str, Any] | None = None) -> str:
    """The page of a report, or of two side by side."""
    reports = [report] if compared is None else [report, compared]
    found = shares(report) if compared is None else compared_shares(reports)
    charts = [svg.inline(svg.bars(each["title"], each["labels"], each["rows"])) for each in found]
    names = [each["name"] for each in reports]
    page = _environment().get_template("page.html")
    return page.render(names=names, reports=reports, charts=[_trusted(chart) for chart in charts])


def samples_html(samples: Sequence[Mapping[str, Any]], unit: str = "tokens") -> str:
    """Rows (`samples` of a source's figures) as a piece of HTML with its own style, for a notebook."""
    macros: Any = _environment().get_template("rows.html").module
    return f"<style>{macros.style()}</style>{macros.rows(samples, unit)}"


def charts_html(charts: Sequence[svg.Chart]) -> str:
    """Charts as a piece of HTML with their own style, for a notebook."""
    return f"<style>{svg.STYLE}</style>" + "".join(map(svg.inline, charts))


@functools.lru_cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals.update(
        visible=lambda text: visible(str(text)),
        language=_language,
        meaning=_meaning,
        length_chart=_length_chart,
        chart_style=_trusted(svg.STYLE),
        fonts=_trusted(svg.FONTS),
    )
    return environment


def _trusted(text: str) -> Any:
    """Text that is HTML already: only what `svg` drew, which escapes by itself."""
    from markupsafe import Markup

    return Markup(text)


def _length_chart(sources: Sequence[Mapping[str, Any]], unit: str) -> Any:
    title = f"sequences by length in {unit}"
    return _trusted(svg.inline(svg.histogram(title, svg.together(sources), unit, height=80)))


def _language(code: str | None) -> str:
    """What `lang` may say, so that kanji get the glyphs of their language; else nothing."""
    return code if code and _LANGUAGE.fullmatch(code) else ""


def _meaning(code: str) -> str:
    return CODES[code].says if code in CODES else ""
