"""The drawings of the HTML page, as SVG that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recbole_oov.report.markup import Markup, join, tag
from recbole_oov.report.scales import Scale, linear, logarithmic
from recbole_oov.report.statistics import smaller_is_better
from recbole_oov.report.summary import Line, Table
from recbole_oov.report.words import metric_label, number


@dataclass(frozen=True)
class Point:
    """A model in the drawings."""

    name: str
    cost: float
    value: float
    low: float
    high: float
    front: bool = False


def points(table: Table) -> list[Point]:
    """The models with a value of the main column and a time, and which no cheaper one equals (the front)."""
    found = []
    for line in table.lines:
        estimate, seconds = line.estimates.get(table.main), line.cost("train s")
        if estimate is not None and seconds is not None:
            low = estimate.value if estimate.low is None else estimate.low
            high = estimate.value if estimate.high is None else estimate.high
            found.append(Point(line.name, max(seconds, 0.1), estimate.value, low, high))
    sign = -1 if smaller_is_better(table.main[1]) else 1
    marked, best = [], float("-inf")
    for point in sorted(found, key=lambda point: (point.cost, -sign * point.value)):
        front = sign * point.value > best
        best = max(best, sign * point.value)
        marked.append(Point(point.name, point.cost, point.value, point.low, point.high, front))
    return marked


def scatter(table: Table) -> Markup | None:
    """Seconds of training against the main metric; None with fewer than two models."""
    models = points(table)
    if len(models) < 2:
        return None
    width, height, label = 520, 380, metric_label(table.main[1])
    costs = [point.cost for point in models]
    x = logarithmic(costs, 56, width - 12) if max(costs) > 8 * min(costs) else linear(costs, 56, width - 12)
    y = linear([v for point in models for v in (point.low, point.high)], height - 44, 14)
    parts = [*_grid(x, y, width, height)]
    front = [point for point in models if point.front]
    parts.append(tag("polyline", points=" ".join(_steps([(x(p.cost), y(p.value)) for p in front])), class_="front"))
    for point in models:
        px, py = x(point.cost), y(point.value)
        said = f"{point.name}: {label} {number(point.value)}, {point.cost:.0f} s"
        kind = "point best" if point.front else "point"
        parts.append(
            tag(
                "g",
                tag("title", said),
                tag("line", x1=px, x2=px, y1=y(point.low), y2=y(point.high)),
                tag("circle", cx=px, cy=py, r=4.5),
                class_=kind,
            )
        )
    whiskers = [(x(p.cost) - 1.5, y(p.high), x(p.cost) + 1.5, y(p.low)) for p in models]
    parts += _labels([(x(p.cost), y(p.value), p.name) for p in models], whiskers, width, height - 44)
    parts.append(tag("text", "seconds of training", x=(56 + width - 12) / 2, y=height - 6, class_="axis middle"))
    parts.append(tag("text", label, x=4, y=10, class_="axis"))
    return _svg(width, height, f"{label} against seconds of training, {len(models)} models", parts)


def _steps(corners: list[tuple[float, float]]) -> Iterator[str]:
    """A staircase: between two points one gets no more than the cheaper one's value."""
    for (x, y), (_, before) in zip(corners, [corners[0], *corners], strict=False):
        yield f"{x},{before}"
        yield f"{x},{y}"


def _grid(x: Scale, y: Scale, width: int, height: int) -> Iterator[Markup]:
    for tick in y.ticks:
        yield tag("line", x1=56, x2=width - 12, y1=y(tick), y2=y(tick), class_="grid")
        yield tag("text", f"{tick:g}", x=50, y=y(tick) + 4, class_="tick end")
    for tick in x.ticks:
        yield tag("line", x1=x(tick), x2=x(tick), y1=14, y2=height - 44, class_="grid")
        yield tag("text", f"{tick:,g}", x=x(tick), y=height - 28, class_="tick middle")


def _labels(
    places: list[tuple[float, float, str]], whiskers: Sequence[tuple[float, ...]], width: float, bottom: float
) -> Iterator[Markup]:
    """Names beside their points, where they cover neither a point nor an interval nor another name."""
    taken = [*((x - 6, y - 6, x + 6, y + 6) for x, y, _ in places), *whiskers]
    for x, y, name in places:
        name = shortened(name, 22)
        length = _length(name)
        options = [(x + 9, y + 4), (x - 9 - length, y + 4), (x + 9, y - 8), (x + 9, y + 16)]
        options += [(x - 9 - length, y - 8), (x - 9 - length, y + 16), (x + 9, y - 20), (x + 9, y + 28)]
        boxes = [(left, base - 10, left + length, base + 3) for left, base in options]
        inside = [box for box in boxes if box[0] > 50 and box[2] < width and box[1] > 0 and box[3] < bottom]
        box = min(inside or boxes[:1], key=lambda box: sum(_overlap(box, other) for other in taken))
        taken.append(box)
        # Tied to the end at the point, whatever font the reader has.
        before = box[0] < x
        kind = "name end" if before else "name"
        yield tag("text", name, x=round(box[2] if before else box[0], 1), y=round(box[1] + 10, 1), class_=kind)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def forest(table: Table) -> Markup | None:
    """The main metric of each model with its interval, the best first; None with fewer than two models."""
    lines = [line for line in table.lines if table.main in line.estimates]
    if len(lines) < 2:
        return None
    sign = 1 if smaller_is_better(table.main[1]) else -1
    lines.sort(key=lambda line: sign * line.estimates[table.main].value)
    left = 24 + max(_length(shortened(line.name, 22)) for line in lines)
    width, step = 520, 25
    height = 40 + step * len(lines)
    estimates = [line.estimates[table.main] for line in lines]
    values = [value for e in estimates for value in (e.value, e.low, e.high) if value is not None]
    x = linear(values, left, width - 14, n_ticks=4)
    parts = []
    for tick in x.ticks:
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=6, y2=height - 30, class_="grid"))
        parts.append(tag("text", f"{tick:g}", x=x(tick), y=height - 14, class_="tick middle"))
    reference = next((line for line in lines if line.name == table.reference), None)
    if reference is not None:
        at = x(reference.estimates[table.main].value)
        parts.append(tag("line", x1=at, x2=at, y1=6, y2=height - 30, class_="reference"))
    for place, line in enumerate(lines):
        parts.append(_interval(line, table, x, 20 + place * step, left))
    label = metric_label(table.main[1])
    return _svg(width, height, f"{label} with 95 % intervals, {len(lines)} models", parts)


def _interval(line: Line, table: Table, x: Scale, y: float, left: float) -> Markup:
    estimate = line.estimates[table.main]
    low, high = (estimate.value if v is None else v for v in (estimate.low, estimate.high))
    return tag(
        "g",
        tag("title", f"{line.name}: {number(estimate.value)} [{number(low)}, {number(high)}]"),
        tag("text", shortened(line.name, 22), x=left - 12, y=y + 4, class_="name end"),
        tag("line", x1=x(low), x2=x(high), y1=y, y2=y),
        tag("circle", cx=x(estimate.value), cy=y, r=4.5),
        class_="point best" if estimate.place == 1 else "point",
    )


def curves(line: Line, epochs: Scale, scores: Scale) -> Markup | None:
    """One model's validation scores over its epochs, a line a seed; None where no row has them."""
    runs = [(row["seed"], row["valid_scores"]) for row in line.rows if row.get("valid_scores")]
    if not runs:
        return None
    width, height = 220, 140
    parts = []
    for tick in scores.ticks:
        parts.append(tag("line", x1=epochs.start, x2=epochs.end, y1=scores(tick), y2=scores(tick), class_="grid"))
        parts.append(tag("text", f"{tick:g}", x=epochs.start - 5, y=scores(tick) + 3.5, class_="tick end"))
    for tick in epochs.ticks:
        parts.append(tag("text", f"{tick:g}", x=epochs(tick), y=height - 6, class_="tick middle"))
    for seed, scored in runs:
        path = " ".join(f"{epochs(epoch)},{scores(score)}" for epoch, score in scored)
        parts.append(tag("g", tag("title", f"seed {seed}"), tag("polyline", points=path, class_="curve")))
    return _svg(width, height, f"validation scores of {line.name} over epochs", parts)


def curve_scales(lines: Sequence[Line]) -> tuple[Scale, Scale] | None:
    """The axes that the learning curves of a table share; None where no row has one."""
    pairs = [pair for line in lines for row in line.rows for pair in row.get("valid_scores") or ()]
    if not pairs:
        return None
    epochs = linear([float(epoch) for epoch, _ in pairs], 40, 212, n_ticks=4, margin=0.02)
    return epochs, linear([float(score) for _, score in pairs], 118, 8, n_ticks=3)


def _length(name: str) -> float:
    """About as wide as the labels' letters are."""
    return sum(8.6 if character.isupper() or character in "mw" else 6.6 for character in name)


def shortened(name: str, length: int) -> str:
    """A name that leaves room for the drawing."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _svg(width: float, height: float, title: str, parts: Sequence[Markup]) -> Markup:
    return tag(
        "svg", tag("title", title), join(*parts), viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=title
    )
