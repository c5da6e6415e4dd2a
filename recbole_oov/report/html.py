"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib.resources import files

from recbole_oov.report import drawings
from recbole_oov.report.markup import Markup, join, tag
from recbole_oov.report.provenance import provenance
from recbole_oov.report.statistics import smaller_is_better
from recbole_oov.report.summary import SCORES, Estimate, Line, Table
from recbole_oov.report.words import GROUPS, column_label, cost_of, interval, legend, metric_label, number, slug

_COSTS = ("epochs", "epochs to best", "train s", "search CPU s", "peak MiB", "parameters", *SCORES)
"""The columns of cost; the others are in the CSV."""


def page(tables: list[Table], title: str) -> str:
    """The whole page.

    Its script sorts tables; the page's own policy lets no other script run and loads nothing.

    Args:
        tables: The parts of a benchmark.
        title: Its name.
    """
    folder = files("recbole_oov.report")
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = (folder / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; base-uri 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{title}: benchmark report"),
        tag("style", Markup(style)),
    )
    sections = [_section(table, at) for at, table in enumerate(tables)]
    body = tag("body", _header(tables, title), tag("main", *sections), _footer(), tag("script", Markup(script)))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _header(tables: list[Table], title: str) -> Markup:
    runs = sum(len(line.rows) for table in tables for line in table.lines)
    missing = sum(len(line.missing) + len(line.failures) for table in tables for line in table.lines)
    failed = sum(len(line.failures) for table in tables for line in table.lines)
    datasets = dict.fromkeys(table.dataset for table in tables)
    models = dict.fromkeys(line.name for table in tables for line in table.lines)
    said = [
        _count(len(datasets), "data set"),
        _count(len(models), "model"),
        f"{runs} of {runs + missing} runs finished",
    ]
    said += [f"{failed} failed"] if failed else []
    links = [tag("a", table.title, href=f"#{slug(table.title)}-{at}") for at, table in enumerate(tables)]
    return tag(
        "header",
        tag("h1", title),
        tag("p", " · ".join(said), class_="facts"),
        tag("nav", *links, aria_label="Parts") if len(tables) > 1 else None,
    )


def _footer() -> Markup:
    return tag(
        "footer",
        "Click on a heading to sort. The best of a column is ",
        tag("span", tag("span", "set off", class_="value"), class_="best"),
        " and the runner-up ",
        tag("span", tag("span", "underlined", class_="value"), class_="second"),
        ".",
    )


def _section(table: Table, at: int) -> Markup:
    users = dict.fromkeys(table.n_users.values())
    said = [table.dataset] if table.name else []
    if len(users) == 1:
        said.append(_count(next(iter(users)), "user"))
    elif users:
        said.append("users: " + ", ".join(f"{n:,} {GROUPS.get(view, view)}" for view, n in table.n_users.items()))
    seeds = sorted({seed for line in table.lines for seed in line.seeds})
    said += [_count(len(table.lines), "model"), _count(len(seeds), "seed")]
    said += [f"tested against {table.reference}"] if table.reference else []
    return tag(
        "section",
        tag("h2", table.name or f"Test results on {table.dataset}"),
        tag("p", " · ".join(said), class_="facts"),
        _scrolled(_numbers(table, at), f"Results of {table.title}"),
        _problems(table),
        *(tag("p", note, class_="note") for note in table.notes),
        tag("ul", *(tag("li", text) for text in legend(table)), class_="legend"),
        _figures(table),
        _curves(table),
        _tests(table, at),
        provenance(table, at),
        id=f"{slug(table.title)}-{at}",
    )


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _scrolled(content: Markup, label: str) -> Markup:
    # What scrolls must be reachable by keyboard.
    return tag("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)


def _heading(text: str, column: int, *, descending: bool = True) -> Markup:
    first = "descending" if descending else "ascending"
    return tag("th", tag("button", text, type="button"), scope="col", data_column=column, data_first=first)


def _numbers(table: Table, at: int) -> Markup:
    """Groups of columns where there is more than one view: overall, IV, OOV."""
    columns, costs = table.columns, [name for name in _COSTS if name in table.costs]
    if "epochs to best" in costs and "epochs" in costs:
        costs.remove("epochs")
    heads = [_heading("Model", 0, descending=False), _heading("Seeds", 1)]
    heads += [
        _heading(metric_label(metric), 2 + place, descending=not smaller_is_better(metric))
        for place, (_, metric) in enumerate(columns)
    ]
    heads += [_heading(name, 2 + len(columns) + place, descending=False) for place, name in enumerate(costs)]
    rows = [tag("tr", *heads)]
    if len(table.views) > 1:
        groups = [(view, sum(own == view for own, _ in columns)) for view in table.views]
        over = [tag("th"), tag("th")]
        over += [
            tag("th", tag("span", GROUPS.get(view, view)), colspan=n, scope="colgroup", class_="group")
            for view, n in groups
            if n
        ]
        rows.insert(0, tag("tr", *over, tag("th", colspan=len(costs)) if costs else None))
    lines = [_row(line, columns, costs) for line in table.lines]
    return tag("table", tag("thead", *rows), tag("tbody", *lines), class_="sortable", id=f"table-{at}")


def _row(line: Line, columns: list[tuple[str, str]], costs: list[str]) -> Markup:
    cells = [tag("th", line.name, _badge(line), scope="row", data_value=line.name)]
    cells.append(tag("td", len(line.rows), data_value=len(line.rows)))
    cells += [_cell(line.estimates.get(column)) for column in columns]
    for name in costs:
        value = line.cost(name)
        cells.append(tag("td", cost_of(line, name), data_value="" if value is None else value))
    return tag("tr", *cells)


def _badge(line: Line) -> Markup | None:
    if not line.problem:
        return None
    text = "failed" if line.failures and not line.rows else f"{line.seeds_text} seeds"
    return tag("span", text, class_="badge failed" if line.failures else "badge", title=line.problem)


def _cell(estimate: Estimate | None) -> Markup:
    if estimate is None:
        return tag("td", "–", data_value="")
    place = {1: "metric best", 2: "metric second"}.get(estimate.place, "metric")
    spoken = {1: " (best)", 2: " (runner-up)"}.get(estimate.place)
    return tag(
        "td",
        tag("span", number(estimate.value), class_="value", title=spoken and spoken.strip(" ()")),
        _mark(estimate),
        tag("span", interval(estimate), class_="ci") if interval(estimate) else None,
        data_value=estimate.value,
        class_=place,
    )


def _mark(estimate: Estimate) -> Markup:
    test = estimate.test
    if test is None or not test.significant:
        return tag("span", class_="mark")
    side, sign = ("better", "▲") if test.better else ("worse", "▼")
    said = f"{side} than the reference: {test.difference:+.4f}, p = {test.p_holm:.2g}"
    return tag("span", sign, class_=f"mark {side}", title=said, role="img", aria_label=said)


def _problems(table: Table) -> Markup | None:
    lines = [line for line in table.lines if line.problem]
    if not lines:
        return None
    return join(*(tag("p", tag("strong", line.name), f": {line.problem}", class_="note") for line in lines))


def _figures(table: Table) -> Markup | None:
    """Intervals on the left, one drawing a view, and cost against quality on the right."""
    intervals, costs = [], []
    for column in table.drawn:
        forest, label = drawings.forest(table, column), column_label(table, column)
        if forest is not None:
            caption = f"{label}, with 95 % intervals over users"
            intervals.append(tag("figure", forest, tag("figcaption", caption)))
    for column in table.weighed:
        scatter, label = drawings.scatter(table, column), column_label(table, column)
        if scatter is not None:
            caption = f"{label}, against its cost; nothing cheaper is better than what is filled in"
            costs.append(tag("figure", scatter, tag("figcaption", caption)))
    columns = [tag("div", *figures) for figures in (intervals, costs) if figures]
    return tag("div", *columns, class_="figures") if columns else None


def _curves(table: Table) -> Markup | None:
    scales = drawings.curve_scales(table.lines)
    if not scales:
        return None
    drawn = []
    for line in table.lines:
        metric = drawings.validation_metric(line)
        svg = drawings.curves(line, *scales[metric]) if metric in scales else None
        if svg is not None:
            small = tag("span", metric, class_="facts") if len(scales) > 1 else None
            drawn.append(tag("div", tag("h4", line.name, small), svg))
    what = "The score" if len(scales) > 1 else next(iter(scales))
    return tag(
        "figure",
        tag("div", *drawn, class_="curves"),
        tag("figcaption", f"{what} on the validation part over epochs, one line a seed"),
        class_="apart",
    )


def _tests(table: Table, at: int) -> Markup | None:
    rows = list(_test_rows(table))
    if not rows:
        return None
    heads = ["Model", "Group", "Metric", "Difference", "p, Holm", "p"]
    headings = [_heading(text, place, descending=False) for place, text in enumerate(heads)]
    content = tag("table", tag("thead", tag("tr", *headings)), tag("tbody", *rows), class_="sortable", id=f"tests-{at}")
    summary = tag("summary", f"{len(rows)} paired tests against {table.reference}")
    return tag("details", summary, _scrolled(content, f"Paired tests of {table.title}"))


def _test_rows(table: Table) -> Iterator[Markup]:
    for line in table.lines:
        for view, metric in table.columns:
            estimate = line.estimates.get((view, metric))
            if estimate is None or estimate.test is None:
                continue
            test = estimate.test
            side = ("better" if test.better else "worse") if test.significant else None
            yield tag(
                "tr",
                tag("th", line.name, scope="row", data_value=line.name),
                tag("td", GROUPS.get(view, view), data_value=view),
                tag("td", metric_label(metric), data_value=metric),
                tag("td", f"{test.difference:+.4f}", data_value=test.difference, class_=side),
                tag("td", f"{test.p_holm:.2g}", data_value=test.p_holm),
                tag("td", f"{test.p_value:.2g}", data_value=test.p_value),
            )
