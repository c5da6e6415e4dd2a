"""HTML and SVG elements whose text and attributes are escaped unless they are elements themselves."""

from __future__ import annotations

from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


VOID = {"meta", "link", "br", "hr", "input", "line", "circle", "path", "rect", "polyline"}
"""Elements that nothing is in."""


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element.

    Args:
        name: Of the element.
        children: ``Markup`` goes in as it is, anything else as escaped text; None is left out.
        attributes: ``class_`` for ``class``, ``data_value`` for ``data-value``; None and False are left out, True
            stands without a value.
    """
    text = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Markup(f"<{name}{text}/>")
    return Markup(f"<{name}{text}>{join(*children)}</{name}>")


def join(*children: object) -> Markup:
    """Children one after the other."""
    return Markup(
        "".join(child if isinstance(child, Markup) else escape(str(child)) for child in children if child is not None)
    )
