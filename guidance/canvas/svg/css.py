"""CSS as SVG uses it: the properties of elements, by attribute, `style` and style sheets.

Of selectors we take those of names, classes and ids, which is what drawing programs write; matching others
(cssselect2) takes exponential time on hostile ones.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import tinycss2
from tinycss2.ast import Node

from guidance.canvas.svg.document import Element
from guidance.canvas.svg.values import (
    Note,
    parse_colour,
    parse_fraction,
    parse_length,
    parse_paint,
    readable,
    tokens,
)

#: The properties that children have from their parents, and what the root's are.
INHERITED = {
    "color": "black",
    "fill": "black",
    "fill-opacity": "1",
    "fill-rule": "nonzero",
    "stroke": "none",
    "stroke-opacity": "1",
    "stroke-width": "1",
    "stroke-linecap": "butt",
    "stroke-linejoin": "miter",
    "stroke-dasharray": "none",
    "marker-start": "none",
    "marker-mid": "none",
    "marker-end": "none",
    "paint-order": "normal",
    "color-interpolation": "sRGB",
    "visibility": "visible",
}
OWN = {
    "opacity": "1",
    "display": "inline",
    "stop-color": "black",
    "stop-opacity": "1",
    "vector-effect": "none",
    "clip-path": "none",
    "mask": "none",
    "filter": "none",
    "mix-blend-mode": "normal",
    "transform": "none",
    "transform-origin": "",
}
_INITIAL = INHERITED | OWN
#: In style sheets alone; as an attribute it is SVG's own, which has another syntax.
_ONLY_CSS = {"transform"}

Style = dict[str, str]


class Declaration(NamedTuple):
    property: str
    value: str
    important: bool


class Rule(NamedTuple):
    """A selector such as path.big#one, with its rank in the cascade."""

    name: str
    id: str
    classes: frozenset[str]
    rank: tuple[int, int, int, int]
    declarations: list[Declaration]


class Sheet:
    """The rules of a document's style sheets, found by the part of the selector that is rarest."""

    def __init__(self, texts: Sequence[str], spend: Callable[[int], None], note: Note) -> None:
        self._rules: dict[str, list[Rule]] = {}
        order = 0
        spend(sum(map(len, texts)) // 2)
        for text in texts:
            for rule in tinycss2.parse_stylesheet(readable(text), skip_comments=True, skip_whitespace=True):
                if rule.type != "qualified-rule":
                    note("CSS at-rules" if rule.type == "at-rule" else "malformed CSS")
                    continue
                declarations = _declarations(rule.content)
                for name, id, classes in _selectors(rule.prelude, note):
                    order += 1
                    key = f"#{id}" if id else f".{min(classes)}" if classes else name
                    rank = (bool(id), len(classes), name != "*", order)
                    self._rules.setdefault(key, []).append(Rule(name, id, classes, rank, declarations))

    def rules(self, element: Element, spend: Callable[[int], None]) -> list[Rule]:
        """The rules for an element, the strongest last."""
        id = element.attributes.get("id", "")
        classes = frozenset(element.attributes.get("class", "").split())
        keys = [f"#{id}", *(f".{c}" for c in classes), element.name, "*"]
        candidates = [rule for key in keys for rule in self._rules.get(key, [])]
        spend(sum(1 + len(rule.declarations) for rule in candidates))
        return sorted(
            (
                rule
                for rule in candidates
                if rule.name in ("*", element.name) and rule.id in ("", id) and rule.classes <= classes
            ),
            key=lambda rule: rule.rank,
        )

    def declared(self, element: Element, spend: Callable[[int], None]) -> Style:
        """The valid properties that are set on an element itself, by whatever means."""
        attributes = [Declaration(k, v, False) for k, v in element.attributes.items() if k not in _ONLY_CSS]
        inline = element.attributes.get("style", "")
        spend((len(inline) + sum(len(d.value) for d in attributes if _known(d))) // 2)
        sheets = [d for rule in self.rules(element, spend) for d in rule.declarations]
        own = _declarations(tokens(inline)) if inline else []
        stronger = [[d for d in source if d.important] for source in (sheets, own)]
        return {
            d.property: d.value.strip()
            for source in (attributes, sheets, own, *stronger)
            for d in source
            if _known(d) and _valid(d.property, d.value.strip())
        }


def inherit(parent: Style, declared: Style) -> Style:
    """An element's properties: its own over its parent's over the initial ones."""
    style = {**OWN, **{name: parent[name] for name in INHERITED}}
    for name, value in declared.items():
        word = value.lower()
        if word in ("unset", "revert"):
            word = "initial" if name in OWN else "inherit"
        if word == "initial":
            style[name] = _INITIAL[name]
        elif word == "inherit" or (name == "color" and word == "currentcolor"):
            style[name] = parent.get(name, _INITIAL[name])
        else:
            style[name] = value
    return style


def _known(declaration: Declaration) -> bool:
    return declaration.property in _INITIAL


def _valid(name: str, value: str) -> bool:
    """Whether a value counts; one that does not leaves what is inherited."""
    if value.lower() in ("inherit", "initial", "unset", "revert"):
        return True
    if name in ("fill", "stroke"):
        return parse_paint(value) is not None
    if name in ("color", "stop-color"):
        return value.lower() == "currentcolor" or parse_colour(value) is not None
    if name.endswith("opacity"):
        return parse_fraction(value) is not None
    if name == "stroke-width":
        width = parse_length(value, 1, lambda _: None)
        return width is not None and width >= 0
    return True


def _simple(token: Node) -> bool:
    """Whether brackets do not nest: such values we know, and writing others out again recurs."""
    inner = token.arguments if token.type == "function" else []
    return not token.type.endswith("block") and not any(
        t.type == "function" or t.type.endswith("block") for t in inner
    )


def _declarations(tokens: list[Node]) -> list[Declaration]:
    parsed = tinycss2.parse_blocks_contents(tokens, skip_comments=True, skip_whitespace=True)
    return [
        Declaration(item.lower_name, tinycss2.serialize(item.value), item.important)
        for item in parsed
        if item.type == "declaration" and all(map(_simple, item.value))
    ]


def _selectors(prelude: list[Node], note: Note) -> Iterable[tuple[str, str, frozenset[str]]]:
    """Name (or *), id (or ""), and classes of every selector of a list."""
    parts: list[list[Node]] = [[]]
    for token in prelude:
        if token == ",":
            parts.append([])
        elif token.type != "comment":
            parts[-1].append(token)
    for part in parts:
        found = _selector(part)
        if found is None:
            note("CSS selectors other than of names, classes and ids")
        else:
            yield found


def _selector(tokens: list[Node]) -> tuple[str, str, frozenset[str]] | None:
    inked = [i for i, token in enumerate(tokens) if token.type != "whitespace"]
    if not inked:
        return None
    name, ids, classes = "*", [], []
    rest = tokens[inked[0] : inked[-1] + 1][::-1]
    if rest and (rest[-1].type == "ident" or rest[-1] == "*"):
        name = rest.pop().value
    while rest:
        token = rest.pop()
        if token.type == "hash":
            ids.append(token.value)
        elif token == "." and rest and rest[-1].type == "ident":
            classes.append(rest.pop().value)
        else:
            return None
    return (name, "".join(ids), frozenset(classes)) if len(ids) < 2 else None
