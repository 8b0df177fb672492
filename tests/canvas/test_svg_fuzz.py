"""Whatever a file holds, reading it ends in a scene or in one line that says what is wrong."""

import re
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guidance.canvas import Scene
from guidance.canvas.svg import SvgWarning, read_svg, to_svg
from guidance.errors import InputError

FOLDER = Path(__file__).parent / "drawings"
DRAWINGS = [path.read_bytes() for path in sorted(FOLDER.glob("*.svg"))]

ODD_NUMBERS = ["", "0", "-0", "007", "1.", "-.5", "+3", "1e3", "-6.e-5", "1e-9", "1e400", "-1e308", "9" * 30]
ODD_NUMBERS += ["NaN", "inf", "50%", "-20%", "2mm", "3em", "auto", "abc", "1 2", "1e", "--1", "2px;", "٣"]
NUMBERS = st.one_of(
    st.integers(-30, 130).map(str),
    st.floats(-200, 200).map(lambda x: f"{x:.3g}"),
    st.sampled_from(ODD_NUMBERS),
)
WORDS = st.one_of(
    st.sampled_from(
        """none|inherit|initial|currentColor|red|#0af|#12345678|#12|rgb(1,2,3)|url(#a)|rgba(10%, 20%, 30%, .5)
        |hsl(120 50% 50%)|hsl(1e999,1%,1%)|rgb(,)|color()|url('#b') red|url(#p)|url(http://x/y)|url(|evenodd
        |lab(50% 40 9)|round|hidden|userSpaceOnUse|objectBoundingBox|reflect|stroke fill|\x7f|""".split("|")  # noqa: SIM905
    ),
    st.sampled_from(["(" * 400, "9" * 5000, "non-scaling-stroke"]),
)
PATHS = st.lists(
    st.tuples(st.sampled_from("MmLlHhVvCcSsQqTtAaZz, x"), st.lists(NUMBERS, max_size=8)), max_size=8
).map(lambda steps: "M1 2" + "".join(c + " ".join(values) for c, values in steps))
TRANSFORMS = st.lists(
    st.tuples(
        st.sampled_from(["matrix", "translate", "scale", "rotate", "skewX", "skewY", "perspective"]),
        st.lists(NUMBERS, max_size=6),
    ),
    max_size=3,
).map(lambda steps: " ".join(f"{name}({','.join(values)})" for name, values in steps))
LISTS = st.lists(NUMBERS, max_size=9).map(" ".join)
ASPECTS = st.sampled_from(["none", "xMinYMax slice", "xMidYMid meet", "bogus", "x", "slice"])
LINKS = st.sampled_from(["#a", "#b", "#s", "#g", "#p", "#missing", "", "#", "http://x/#a", "data:image/png,"])

NUMERIC = ["x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "rx", "ry", "fx", "fy", "width", "height"]
NUMERIC += ["offset", "stroke-width", "opacity", "fill-opacity", "stroke-opacity", "stop-opacity"]
NUMERIC += ["stroke-miterlimit"]
WORDY = ["fill", "stroke", "color", "stop-color", "fill-rule", "display", "visibility", "gradientUnits"]
WORDY += ["spreadMethod", "paint-order", "vector-effect", "clip-path", "filter", "mask", "stroke-linecap"]
DECLARATIONS = st.lists(
    st.tuples(st.sampled_from(NUMERIC + WORDY), st.one_of(NUMBERS, WORDS)).map(":".join), max_size=4
).map(";".join)
NAMED = {
    "d": PATHS,
    "transform": TRANSFORMS,
    "gradientTransform": TRANSFORMS,
    "points": LISTS,
    "viewBox": LISTS,
    "preserveAspectRatio": ASPECTS,
    "href": LINKS,
    "xlink:href": LINKS,
    "id": st.sampled_from(["a", "b", "s", "g", "p", "a b"]),
    "class": st.sampled_from(["a", "b", "a b", ""]),
    "style": DECLARATIONS,
}
ATTRIBUTES = st.one_of(
    st.tuples(st.sampled_from(NUMERIC), NUMBERS),
    st.tuples(st.sampled_from(WORDY), WORDS),
    *(st.tuples(st.just(name), values) for name, values in NAMED.items()),
)
SELECTORS = ["*", "path", ".a", ".a.b", "#g", "g.a", "g > path", "a:hover", "::", "[x]", "path, .b"]
SELECTORS += ["@media x"]
RULES = st.tuples(st.sampled_from(SELECTORS), DECLARATIONS).map(lambda rule: f"{rule[0]}{{{rule[1]}}}")
SHEETS = st.lists(RULES, max_size=3).map("".join)
NAMES = ["g", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "use", "svg", "symbol"]
NAMES += ["defs", "linearGradient", "radialGradient", "stop", "switch", "text", "image", "pattern"]
NAMES += ["script", "a", "x"]


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def element(name: str, attributes: list[tuple[str, str]], inside: str) -> str:
    written = "".join(f' {key}="{escape(value)}"' for key, value in dict(attributes).items())
    return f"<{name}{written}>{inside}</{name}>"


ELEMENTS = st.recursive(
    st.builds(element, st.sampled_from(NAMES), st.lists(ATTRIBUTES, max_size=7), st.just("")),
    lambda inner: st.builds(
        element,
        st.sampled_from(NAMES),
        st.lists(ATTRIBUTES, max_size=4),
        st.lists(inner, max_size=4).map("".join),
    ),
    max_leaves=12,
)


@st.composite
def documents(draw: st.DrawFn) -> str:
    sheet, body = draw(SHEETS), "".join(draw(st.lists(ELEMENTS, min_size=1, max_size=4)))
    attributes = draw(st.lists(ATTRIBUTES, max_size=3))
    attributes += draw(st.sampled_from([[("viewBox", "0 0 100 80")], [("width", "40"), ("height", "9")], []]))
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    body = f"<style>{escape(sheet)}</style><path d='M0 0h9v9z'/>{body}"
    return element("svg", attributes, body).replace("<svg", f"<svg {links}", 1)


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """One of our files with parts cut out, doubled, moved or written over."""
    data = bytearray(draw(st.sampled_from(DRAWINGS)))
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["cut", "double", "byte", "number", "value"]))
        at = draw(st.integers(0, len(data)))
        span = slice(at, at + draw(st.integers(0, 60)))
        if kind == "cut":
            del data[span]
        elif kind == "double":
            data[at:at] = data[span] * draw(st.integers(1, 5))
        elif kind == "byte":
            data[at:at] = draw(st.binary(max_size=3))
        else:
            pattern, values = (rb"\d+\.?\d*", NUMBERS) if kind == "number" else (rb'(?<=")[^"]*(?=")', WORDS)
            found = list(re.finditer(pattern, data))
            if found:
                match = draw(st.sampled_from(found))
                data[match.start() : match.end()] = escape(draw(values)).encode()
    return bytes(data)


def read(source: str | Path) -> tuple[Scene, tuple[int, int]] | None:
    """What a source holds, None if it was refused in the way that it should be."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", SvgWarning)
        try:
            return read_svg(source)
        except InputError as error:
            message = str(error)
    assert "\n" not in message
    assert len(message) < 400
    return None


def check(source: str | Path) -> None:
    found = read(source)
    if found is None:
        return
    scene, size = found  # a whole scene: it checks itself
    again = read(to_svg(scene, size))
    if again is not None:  # paths that the printed digits make points are lost
        assert again[1] == size
        assert again[0].opacity.shape[1] <= scene.opacity.shape[1]


QUICK = settings(max_examples=150, deadline=None, derandomize=True, database=None)
LONG = settings(max_examples=25_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(documents())
def test_random_documents(document: str) -> None:
    check(document)


@QUICK
@given(mutations())
def test_broken_files(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "broken.svg"
    path.write_bytes(data)
    check(path)


@pytest.mark.slow
@LONG
@given(documents())
def test_very_many_random_documents(document: str) -> None:
    check(document)


@pytest.mark.slow
@LONG
@given(mutations())
def test_very_many_broken_files(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "broken.svg"
    path.write_bytes(data)
    check(path)
