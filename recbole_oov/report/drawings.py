"""The drawings of the HTML page, as SVG that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from recbole_oov.report.markup import Markup, join, tag
from recbole_oov.report.scales import Scale, linear, logarithmic
from recbole_oov.report.statistics import smaller_is_better
from recbole_oov.report.summary import Column, Line, Table
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


def points(table: Table, column: Column) -> list[Point]:
    """The models with a value of a column and a time, and which no cheaper one equals (the front)."""
    found = []
    for line in table.lines:
        estimate, seconds = line.estimates.get(column), line.cost("train s")
        if estimate is not None and seconds is not None:
            low = estimate.value if estimate.low is None else estimate.low
            high = estimate.value if estimate.high is None else estimate.high
            found.append(Point(line.name, max(seconds, 0.1), estimate.value, low, high))
    sign = -1 if smaller_is_better(column[1]) else 1
    marked, best = [], float("-inf")
    for point in sorted(found, key=lambda point: (point.cost, -sign * point.value)):
        front = sign * point.value > best
        best = max(best, sign * point.value)
        marked.append(Point(point.name, point.cost, point.value, point.low, point.high, front))
    return marked


def scatter(table: Table, column: Column) -> Markup | None:
    """Seconds of training against a column; None with fewer than two models."""
    models = points(table, column)
    if len(models) < 2:
        return None
    width, height, label = 520, 380 if len(models) > 6 else 300, metric_label(column[1])
    costs = [point.cost for point in models]
    wide = max(costs) > 8 * min(costs)
    x = logarithmic(costs, 56, width - 12) if wide else linear(costs, 56, width - 12, margin=0.12)
    y = linear([v for point in models for v in (point.low, point.high)], height - 44, 14)
    parts = [*_grid(x, y, width, height)]
    front = [point for point in models if point.front]
    steps = list(_steps([(x(p.cost), y(p.value)) for p in front]))
    parts.append(tag("polyline", points=" ".join(f"{left},{top}" for left, top in steps), class_="front"))
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
    drawn: list[tuple[float, ...]] = [(x(p.cost) - 1.5, y(p.high), x(p.cost) + 1.5, y(p.low)) for p in models]
    drawn += [_box(*pair) for pair in pairwise(steps)]
    named = sorted(models, key=lambda point: not point.front)  # those that nobody beats get their names first
    places = [(x(p.cost), y(p.value), p.name, p.front) for p in named]
    parts += _labels(places, drawn, width, height - 44)
    parts.append(tag("text", "seconds of training", x=(56 + width - 12) / 2, y=height - 6, class_="axis middle"))
    parts.append(tag("text", label, x=4, y=10, class_="axis"))
    return _svg(width, height, f"{label} against seconds of training, {len(models)} models", parts)


def _steps(corners: list[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """A staircase: between two points one gets no more than the cheaper one's value."""
    for (x, y), (_, before) in zip(corners, [corners[0], *corners], strict=False):
        yield x, before
        yield x, y


def _box(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, ...]:
    """What a thin line, across or down, takes."""
    (x0, x1), (y0, y1) = sorted((start[0], end[0])), sorted((start[1], end[1]))
    return x0 - 1, y0 - 1, x1 + 1, y1 + 1


def _grid(x: Scale, y: Scale, width: int, height: int) -> Iterator[Markup]:
    for tick in y.ticks:
        yield tag("line", x1=56, x2=width - 12, y1=y(tick), y2=y(tick), class_="grid")
        yield tag("text", f"{tick:g}", x=50, y=y(tick) + 4, class_="tick end")
    for tick in x.ticks:
        yield tag("line", x1=x(tick), x2=x(tick), y1=14, y2=height - 44, class_="grid")
        yield tag("text", f"{tick:,g}", x=x(tick), y=height - 28, class_="tick middle")


def _labels(
    places: list[tuple[float, float, str, bool]], drawn: Sequence[tuple[float, ...]], width: float, bottom: float
) -> Iterator[Markup]:
    """Names beside their points, where they cover neither a point nor a line nor another name.

    A name that would cover another's is left out, unless it has to be there; the point still says it when pointed at.
    """
    taken = [*((x - 6, y - 6, x + 6, y + 6) for x, y, _, _ in places), *drawn]
    names: list[tuple[float, ...]] = []
    for x, y, name, needed in places:
        name = shortened(name, 22)
        length = _length(name)
        options = [(x + 9, y + 4), (x - 9 - length, y + 4), (x + 9, y - 8), (x + 9, y + 16)]
        options += [(x - 9 - length, y - 8), (x - 9 - length, y + 16), (x + 9, y - 20), (x + 9, y + 28)]
        options += [
            (x - length / 2, y - 12),
            (x - length / 2, y + 20),
            (x - 9 - length, y - 20),
            (x - 9 - length, y + 28),
        ]
        boxes = [(left, base - 10, left + length, base + 3) for left, base in options]
        inside = [box for box in boxes if box[0] > 50 and box[2] < width and box[1] > 0 and box[3] < bottom]
        box = min(inside or boxes[:1], key=lambda box: sum(_overlap(box, other) for other in taken))
        if not needed and any(_overlap(box, other) for other in names):
            continue
        taken.append(box)
        names.append(box)
        if options.index((box[0], box[1] + 10)) > 1:  # not just beside it: a line says whose name it is
            yield tag("line", x1=x, y1=y, **_nearest(box, x, y), class_="leader")
        # Tied to the end at the point, whatever font the reader has.
        before = box[0] < x
        kind = "name end" if before else "name"
        yield tag("text", name, x=round(box[2] if before else box[0], 1), y=round(box[1] + 10, 1), class_=kind)


def _nearest(box: tuple[float, ...], x: float, y: float) -> dict[str, float]:
    """The point of a box that is nearest to another, as the end of a line."""
    return {"x2": round(min(max(x, box[0]), box[2]), 1), "y2": round(min(max(y, box[1]), box[3]), 1)}


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def forest(table: Table, column: Column) -> Markup | None:
    """A column of each model with its interval, the best first; None with fewer than two models."""
    lines = [line for line in table.lines if column in line.estimates]
    if len(lines) < 2:
        return None
    sign = 1 if smaller_is_better(column[1]) else -1
    lines.sort(key=lambda line: sign * line.estimates[column].value)
    left = 24 + max(_length(shortened(line.name, 22)) for line in lines)
    width, step = 520, 25
    height = 40 + step * len(lines)
    estimates = [line.estimates[column] for line in lines]
    values = [value for e in estimates for value in (e.value, e.low, e.high) if value is not None]
    x = linear(values, left, width - 14, n_ticks=4)
    parts = []
    for tick in x.ticks:
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=6, y2=height - 30, class_="grid"))
        parts.append(tag("text", f"{tick:g}", x=x(tick), y=height - 14, class_="tick middle"))
    reference = next((line for line in lines if line.name == table.reference), None)
    if reference is not None:
        at = x(reference.estimates[column].value)
        parts.append(tag("line", x1=at, x2=at, y1=6, y2=height - 30, class_="reference"))
    for place, line in enumerate(lines):
        parts.append(_interval(line, column, x, 20 + place * step, left))
    label = metric_label(column[1])
    return _svg(width, height, f"{label} with 95 % intervals, {len(lines)} models", parts)


def _interval(line: Line, column: Column, x: Scale, y: float, left: float) -> Markup:
    estimate = line.estimates[column]
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
        places = [(epochs(epoch), scores(score)) for epoch, score in scored]
        drawn = tag("polyline", points=" ".join(f"{x},{y}" for x, y in places), class_="curve")
        if len(places) == 1:  # a line of one point is not seen
            drawn = tag("circle", cx=places[0][0], cy=places[0][1], r=3, class_="dot")
        parts.append(tag("g", tag("title", f"seed {seed}"), drawn))
    return _svg(width, height, f"validation scores of {line.name} over epochs", parts)


def validation_metric(line: Line) -> str:
    """What a model is stopped early by; models of one table may differ in it."""
    return str(line.rows[0]["options"].get("valid_metric", "validation")) if line.rows else "validation"


def curve_scales(lines: Sequence[Line]) -> dict[str, tuple[Scale, Scale]]:
    """The axes of the learning curves, by metric of validation: epochs for all, scores for those with that metric."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        own = [pair for row in line.rows for pair in row.get("valid_scores") or ()]
        if own:
            pairs.setdefault(validation_metric(line), []).extend((float(epoch), float(score)) for epoch, score in own)
    every_epoch = [epoch for own in pairs.values() for epoch, _ in own]
    return {
        metric: (
            linear(every_epoch, 40, 212, n_ticks=4, margin=0.02),
            linear([score for _, score in own], 118, 8, n_ticks=3),
        )
        for metric, own in pairs.items()
    }


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
