"""SVG files as scenes: drawn like resvg draws them, and what is hostile, malformed or beyond a scene."""

import warnings
from dataclasses import replace
from math import pi
from pathlib import Path

import pytest
import torch
from random_scenes import SIZE, random_scene
from shown import on_white, shown

from guidance.canvas import Scene, Strokes, rasterize
from guidance.canvas.svg import SvgWarning, document, read_svg, to_svg
from guidance.clock import Clock
from guidance.errors import InputError

DRAWINGS = sorted((Path(__file__).parent / "drawings").glob("*.svg"))
WHITE = torch.ones(3)


def svg(body: str, attributes: str = 'viewBox="0 0 100 100"') -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>{body}</svg>'


def quietly(source: str | Path) -> Scene:
    """A scene that needs no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_svg(source)[0]


def noted(body: str) -> str:
    """The one warning of a drawing."""
    with pytest.warns(SvgWarning) as caught:
        read_svg(svg(body))
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "\n" not in message
    return message


def same_picture(source: str, *, within: float = 0.6) -> None:
    """Drawn by us as by resvg."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scene, (height, width) = read_svg(source)
    scale = 120 / max(height, width)
    size = (round(height * scale), round(width * scale))
    ours = rasterize(replace(scene, background=WHITE if scene.background is None else scene.background), size)
    assert (on_white(shown(source, *size)) - ours).abs().mean() < within / 255


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.stem)
def test_files_look_like_what_resvg_shows(path: Path) -> None:
    same_picture(path.read_text(), within=2 if path.stem == "inkscape" else 0.6)  # resvg rounds its size


PLAIN = 'stroke-linecap="round" stroke-linejoin="round"'


@pytest.mark.parametrize(
    "body",
    [
        '<rect x="10" y="20" width="70" height="40" rx="15" fill="teal"/>',
        '<rect x="10" y="20" width="70" height="40" rx="15" ry="90" fill="teal"/>',
        '<rect width="10cm" height="1in" transform="scale(.2)"/>',
        '<ellipse cx="50" cy="50" rx="40" ry="10" transform="rotate(30 50 50)"/>',
        '<path d="M10 50A40 20 30 0 1 90 50A40 20 30 1 0 10 50" fill="red" fill-rule="evenodd"/>',
        '<path d="M10 50a10 5 0 1 1 80 0" fill="red"/>',  # radii that are too small
        '<path d="M50 50a30 30 0 1 150-30 0 20 0 1 0-40-10z" fill="red"/>',  # flags run together
        '<path d="M20 20h60v60h-60zM40 40v20h20v-20z" fill="#123"/>',
        '<path d="M10-20.5.5.5 50 90e0z" fill="#123"/>',
        '<path d="M20 20L80 20L50 70Zl10 30h30z" fill="#123"/>',  # after a Z it goes on from the start
        '<path d="M10 10 L90 10 L50 50 foo L0 100" fill="red"/>',
        f'<path d="M50 50zM20 20h0" stroke="red" stroke-width="30" fill="none" {PLAIN}/>',
        f'<polyline points="10,10 50 90, 90,10" fill="none" stroke="blue" stroke-width="5%" {PLAIN}/>',
        f'<circle r="30" cx="50" cy="50" fill="gold" stroke="navy" stroke-width="10" {PLAIN}/>',
        f'<circle r="30" cx="50" cy="50" fill="gold" stroke="navy" stroke-width="20"'
        f' paint-order="stroke" {PLAIN}/>',
        '<g transform="matrix(1 .3 -.2 .8 10 0) skewX(10) translate(5)"><rect width="50" height="50"/></g>',
        '<rect width="50" height="50" fill="red" transform="scale(0 1)"/><circle r="9"/>',
        '<g fill="red" style="fill: blue"><rect width="50" height="50"/></g>',
        '<style>.a{fill:red}#b{fill:lime}rect{fill:blue!important}</style><rect class="a" id="b" width="50"'
        ' height="50"/><circle class="x a" id="c" r="9" cx="80"/><path class="a" id="b2" d="M60 60h9v9z"/>',
        '<linearGradient id="g" x1="0" x2="1" y2="1"><stop stop-color="red"/><stop offset="1"'
        ' stop-color="blue"/></linearGradient><rect x="20" y="30" width="70" height="30" fill="url(#g)"/>',
        '<radialGradient id="g" cx="30%" r=".6"><stop offset=".2" stop-color="red"/><stop offset="0.9"'
        ' stop-color="blue" stop-opacity=".1"/></radialGradient><ellipse cx="50" cy="50" rx="45" ry="20"'
        ' transform="rotate(20 50 50)" fill="url(#g)" opacity=".8"/>',
        '<linearGradient id="g"><stop stop-color="red"/></linearGradient><rect width="70" height="30"'
        ' fill="url(#g)"/><rect width="30" height="70" fill="url(#none) green"/>',
        f'<radialGradient id="g" gradientUnits="userSpaceOnUse" cx="50" cy="50" r="40" color="orange"><stop'
        f' stop-color="currentColor"/><stop offset="1"/></radialGradient><path stroke="url(#g)"'
        f' stroke-width="20"'
        f' d="M10 50h80" {PLAIN}/>',
        '<defs><g id="a"><circle r="10" fill="currentColor"/></g></defs>'
        '<use href="#a" x="30" y="30" color="red"/>'
        '<use href="#a" transform="translate(70 70) scale(2)"/>',
        '<svg x="10" y="10" width="50%" height="30" viewBox="0 0 10 10" preserveAspectRatio="xMinYMax meet">'
        '<rect width="10" height="10" fill="red"/></svg>',
        '<switch><rect systemLanguage="xx" width="90" height="90"/><circle r="50"/>'
        '<rect width="90" height="90"/></switch>',
        '<rect width="50" height="50" fill="rgba(10%, 50%, 90%, 0.5)"/><rect x="50" width="9" height="9"'
        ' fill="#8F08"/>',
    ],
)  # fmt: skip
def test_features_look_like_what_resvg_shows(body: str) -> None:
    if "foo" in body:
        with pytest.warns(SvgWarning, match="path data with an error"):
            scene, _ = read_svg(svg(body))
        assert (
            rasterize(replace(scene, background=WHITE), 60) - on_white(shown(svg(body), 60, 60))
        ).abs().mean() < 0.6 / 255
    else:
        same_picture(svg(body))


@pytest.mark.parametrize("aspect", ["none", "xMinYMin", "xMaxYMax slice", "xMidYMid meet", "xMinYMid slice"])
@pytest.mark.parametrize("size", ['width="90" height="45"', 'width="40"', 'height="60"', ""])
def test_the_view_box_fits(aspect: str, size: str) -> None:
    body = '<circle cx="45" cy="25" r="20" fill="red"/><path d="M5 5h50v40z" fill="#00f8"/>'
    same_picture(svg(body, f'viewBox="5 5 50 40" preserveAspectRatio="{aspect}" {size}'))


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ('viewBox="0 0 30 20"', (20, 30)),
        ('viewBox="0 0 30 20" width="90"', (60, 90)),
        ('viewBox="0 0 30 20" width="100%" height="40"', (40, 60)),
        ('width="1in" height="24pt"', (32, 96)),
        ('viewBox="0 0 1 0.4"', (1, 1)),
        ('width="1e6" height="5e5"', (8192, 16384)),
    ],
)
def test_the_size_is_what_the_file_states(attributes: str, size: tuple[int, int]) -> None:
    assert read_svg(svg('<path d="M0 0h1v1z"/>', attributes))[1] == size


@pytest.mark.parametrize("seed", range(3))
def test_what_was_written_comes_back(seed: int) -> None:
    """Points and widths to half a thousandth of a pixel, colours to the digits printed."""
    scene = random_scene(seed)
    scene = Scene(
        scene.points, scene.segments, scene.widths[:12][None], scene.colours, scene.opacity,
        scene.background, scene.contours, scene.closed, scene.filled, scene.even_odd, scene.gradients,
    )  # fmt: skip
    back, size = read_svg(to_svg(scene, SIZE))
    assert size == SIZE
    assert torch.equal(back.segments, scene.segments)
    for name in ("contours", "closed", "filled"):
        assert torch.equal(getattr(back, name), getattr(scene, name))
    assert torch.equal(back.even_odd & back.filled, scene.even_odd & scene.filled)
    torch.testing.assert_close(back.points, scene.points, rtol=0, atol=0.00051 / 64)
    widths = scene.widths.masked_fill(scene.filled, 0)
    torch.testing.assert_close(back.widths, widths, rtol=0, atol=0.00051 / 64)
    torch.testing.assert_close(back.opacity, scene.opacity, rtol=0, atol=0.000051)
    torch.testing.assert_close(back.background, scene.background, rtol=0, atol=0.000051)
    graded, again = scene.gradients, back.gradients
    plain = torch.ones(12, dtype=torch.bool).index_fill(0, graded.paths, False)
    torch.testing.assert_close(back.colours[:, plain], scene.colours[:, plain], rtol=0, atol=0.000051)
    assert torch.equal(again.paths, graded.paths)
    assert torch.equal(again.radial, graded.radial)
    torch.testing.assert_close(again.offsets, graded.offsets, rtol=0, atol=1e-5)
    torch.testing.assert_close(again.colours, graded.colours, rtol=0, atol=0.000051)
    # A linear gradient is its u; a radial one may come back turned about its middle.
    u = ~graded.radial
    torch.testing.assert_close(again.transforms[u, 0], graded.transforms[u, 0], rtol=1e-4, atol=1e-4)
    squares = [g.transforms[g.radial].mT @ g.transforms[g.radial] for g in (graded, again)]
    torch.testing.assert_close(*squares, rtol=1e-3, atol=1e-3)


def test_strokes_come_back_as_they_were() -> None:
    canvas = Strokes(50, 224, Clock(seed=1), opacity=(0, 1))
    assert to_svg(quietly(canvas.svg()), 224) == canvas.svg()


def test_the_geometry_is_in_widths_of_the_canvas() -> None:
    scene = quietly(svg('<circle cx="30" cy="20" r="10"/>', 'viewBox="0 0 60 40"'))
    assert scene.background is None
    assert scene.points.min(0).values.tolist() == pytest.approx([20 / 60, 10 / 60])
    area = 3600 * rasterize(scene, (400, 600))[0, 3].mean() * 40 / 60
    assert area.item() == pytest.approx(100 * pi, rel=1e-3)


def test_fill_and_stroke_are_two_paths() -> None:
    scene = quietly(svg(f'<circle r="9" fill="red" stroke="blue" stroke-width="2" {PLAIN}/>'))
    assert scene.filled.tolist() == [[True, False]]
    assert scene.widths.tolist() == [[0, pytest.approx(0.02)]]
    assert scene.colours.tolist() == [[[1, 0, 0], [0, 0, 1]]]
    assert torch.equal(*scene.points.chunk(2))


@pytest.mark.parametrize(
    ("first", "is_background"),
    [
        ('<rect width="100" height="100" fill="red"/>', True),
        ('<path d="M-5-5h200v200h-200z" fill="red"/>', True),
        ('<rect width="100%" height="100%" fill="red"/>', True),
        ('<rect width="100" height="100" fill="red" opacity=".9"/>', False),
        ('<rect width="100" height="99" fill="red"/>', False),
        ('<rect width="100" height="100" rx="5" fill="red"/>', False),
        ('<path d="M0 0h100v100z" fill="red"/>', False),
        ('<rect x="20" y="-50" width="200" height="200" transform="rotate(45)" fill="red"/>', False),
    ],
)
def test_a_first_opaque_page_is_the_background(first: str, is_background: bool) -> None:
    scene = quietly(svg(first + '<circle r="20"/>'))
    assert scene.opacity.shape == (1, 1 if is_background else 2)
    if is_background:
        assert scene.background.tolist() == [1, 0, 0]
    else:
        assert scene.background is None


@pytest.mark.parametrize(
    ("body", "feature"),
    [
        ("<text>hello</text>", "text"),
        ("<image href='a.png'/>", "images"),
        ("<script>alert(1)</script>", "scripts"),
        ("<foreignObject><p xmlns='x'/></foreignObject>", "foreignObject"),
        ("<use href='http://a/b.svg#c'/>", "external references"),
        ("<path fill='url(other.svg#c)' d='M0 0h9v9z'/>", "external references"),
        ("<path filter='url(#f)' d='M0 0h9v9z'/>", "filters"),
        ("<g style='mask: url(#f)'><path d='M0 0h9v9z'/></g>", "masks"),
        ("<path clip-path='url(#f)' d='M0 0h9v9z'/>", "clip paths"),
        ("<pattern id='p'/><path fill='url(#p)' d='M0 0h9v9z'/>", "patterns"),
        ("<path stroke='red' stroke-dasharray='1 2' d='M0 0h9v9z'/>", "dashes"),
        ("<path marker-end='url(#m)' d='M0 0h9v9z'/>", "markers"),
        ("<path stroke='red' d='M0 0h9'/>", "caps other than round"),
        ("<path stroke='red' stroke-linecap='round' d='M0 0h9v9z'/>", "joins other than round"),
        (f"<path stroke='red' {PLAIN} transform='scale(1 2)' d='M0 0h9v9z'/>", "not uniform"),
        ("<g opacity='.5'><path d='M0 0h9v9z'/><path d='M5 0h9v9z'/></g>", "opacity of groups"),
        ("<circle r='9' stroke='red' opacity='.5'/>", "opacity of groups"),
        ("<path style='mix-blend-mode: multiply' d='M0 0h9v9z'/>", "blend modes"),
        ("<path style='transform: rotate(9deg)' d='M0 0h9v9z'/>", "transforms in CSS"),
        ("<path transform='rotate(a)' d='M0 0h9v9z'/>", "malformed transforms"),
        ("<rect width='1q2' height='9'/>", "malformed numbers"),
        ("<rect width='1em' height='9'/>", "relative to the font"),
        ("<g id='a'><use href='#a'/></g>", "lead to themselves"),
        ("<style>g > path{fill:red}</style>", "CSS selectors"),
        ("<style>@import 'a.css';</style>", "CSS at-rules"),
        ("<sparkle/>", "unknown elements"),
        ("<svg width='5' height='5'><rect width='9' height='9'/></svg>", "clipping to nested viewports"),
        ("<path d='M1e5 0h9e5v9z'/><path d='M1e7 0h9e5v9z'/>", "further than 10,000 canvases"),
    ],
)
def test_what_a_scene_has_not_is_named(body: str, feature: str) -> None:
    assert feature in noted(f"<path d='M0 0h1v1z'/>{body}")


@pytest.mark.parametrize(
    ("attributes", "feature"),
    [
        ("spreadMethod='reflect'", "spread methods"),
        ("fx='.1'", "focal points"),
        ("fr='.1'", "focal points"),
        ("color-interpolation='linearRGB'", "linear RGB"),
    ],
)
def test_what_gradients_have_not_is_named(attributes: str, feature: str) -> None:
    stops = "<stop stop-color='red'/><stop offset='1'/>"
    gradient = f"<radialGradient id='g' {attributes}>{stops}</radialGradient>"
    assert feature in noted(f"{gradient}<path fill='url(#g)' d='M0 0h9v9z'/>")


def test_a_warning_names_each_feature_once() -> None:
    message = noted("<text/><path d='M0 0h9v9z'/><text/><image/>")
    assert message == "parts of the SVG are left out or simplified: text, images"


@pytest.mark.parametrize(
    ("value", "colour", "opacity"),
    [
        ("RebeccaPurple", (0x66 / 255, 0x33 / 255, 0x99 / 255), 1),
        ("#1AF", (1 / 15, 10 / 15, 1), 1),
        ("#1af8", (1 / 15, 10 / 15, 1), 8 / 15),
        ("#11aaff80", (1 / 15, 10 / 15, 1), 128 / 255),
        ("rgb(51, 102, 153)", (0.2, 0.4, 0.6), 1),
        ("rgba(20%, 40%, 60%, 0.5)", (0.2, 0.4, 0.6), 0.5),
        ("rgb(20% 40% 60% / 50%)", (0.2, 0.4, 0.6), 0.5),
        ("rgb(-20%, 140%, 60%)", (0, 1, 0.6), 1),
        ("hsl(120, 100%, 25%)", (0, 0.5, 0), 1),
        ("hsla(0.5turn 100% 50% / .25)", (0, 1, 1), 0.25),
        ("hwb(0 50% 0%)", (1, 0.5, 0.5), 1),
        ("transparent", (0, 0, 0), 0),
        ("currentColor", (0, 0, 1), 1),
        ("url(#nothing) #f00", (1, 0, 0), 1),
        # What is no colour leaves what is inherited.
        ("#12", (0, 1, 0), 1),
        ("rgb(1, 2)", (0, 1, 0), 1),
        ("lab(50% 40 60)", (0, 1, 0), 1),
        ("red green", (0, 1, 0), 1),
    ],
)
def test_colours(value: str, colour: tuple[float, float, float], opacity: float) -> None:
    for attribute in (f'fill="{value}"', f'style="fill: red; fill: {value}"'):
        if colour == (0, 1, 0) and "style" in attribute:
            attribute = attribute.replace("red", "lime")
        scene = quietly(svg(f'<g fill="#0f0" color="blue"><path {attribute} d="M0 0h9v9z"/></g>'))
        assert scene.colours.flatten().tolist() == pytest.approx(colour, abs=1e-6)
        assert scene.opacity.item() == pytest.approx(opacity, abs=1e-6)


ENTITIES = '<!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
#: Nine groups, each of ten uses of the next.
LOOPS = "<path id='l9' d='M0 0h1v1z'/>"
for level in range(9):
    LOOPS += f"<g id='l{level}'>" + 10 * f"<use href='#l{level + 1}'/>" + "</g>"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (ENTITIES + svg("&b;"), "DTD"),
        ('<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + svg("&x;"), "DTD"),
        ('<!DOCTYPE svg [<!ELEMENT svg ANY>]>' + svg(""), "DTD"),
        (svg("&undefined;"), "undefined entity"),
        (svg("<g>" * 70 + "</g>" * 70), "64 levels"),
        (svg("<g/>" * 5001), "5,000 elements"),
        (svg(LOOPS), "too complex"),
        (svg("".join(f"<g id='d{i}'><use href='#d{i + 1}'/></g>" for i in range(80))), "64 levels"),
        (svg(f"<path d='M0 0{'h1v1' * 10_001}'/>"), "too complex"),
        (svg(f"<path id='p' d='M0 0{'h1' * 1000}'/>" + "<use href='#p'/>" * 50), "too complex"),
        (svg("<g/>" + " " * 1_000_000), "1,000,000 bytes"),
        (svg("<path d='M0 0h9v9z'/>", 'viewBox="0 0 0 10"'), "no area"),
        (svg("<path d='M0 0h9v9z'/>", 'viewBox="0 0 -5 10"'), "no area"),
        (svg("<path d='M0 0h9v9z'/>", 'viewBox="0 0 1 1e-277" width="9" height="9"'), "no area"),
        (svg("<svg viewBox='0 0 0 1'><path d='M0 0h9v9z'/></svg>"), "no path"),
        (svg("<g transform='scale(1e11)'><path transform='scale(1e11)' d='M0 0h9v9z'/></g>"), "no path"),
        (svg("<path d='M0 0h9v9z'/>", 'width="1" height="1e7"'), "within 1000 times"),
        (svg("<path d='M0 0h9v9z'/>", 'width="0" height="0"'), "above 0"),
        (svg("<path d='M0 0h9v9z'/>", ""), "states no size"),
        (svg(""), "no path"),
        (svg("<rect width='nan' height='9'/><path d='MNaN'/>"), "no path"),
        (svg(f"<path fill='{'9' * 5000}' d='M0 0h9v9z'/>"), "1000 digits"),
        ("<svg", "not an SVG"),
        ("<html/>", "outermost element"),
        (svg("<g xlink:href='#a'/>"), "unbound prefix"),
        ("<?xml version='1.0' encoding='nonsense'?>" + svg(""), "no path"),  # a string has its encoding
        ("nowhere/at/all.svg", "no SVG file"),
        ("a\0b", "no SVG file"),
        ("x" * 5000, "cannot read|no SVG file"),
        (".", "no SVG file"),
    ],
    ids=range(30),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::guidance.canvas.svg.SvgWarning")
def test_hostile_and_malformed_files_are_input_errors(
    source: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cap, value in (("MAX_WORK", 20_000), ("MAX_ELEMENTS", 5000), ("MAX_BYTES", 1_000_000)):
        monkeypatch.setattr(document, cap, value)  # what the real ones are for takes seconds
    with pytest.raises(InputError, match=problem) as caught:
        read_svg(source)
    assert "\n" not in str(caught.value)


def test_files_are_input_errors_too(tmp_path: Path) -> None:
    for content, problem in (
        (b"<?xml version='1.0' encoding='nonsense'?><svg/>", "not an SVG"),
        (b"\xff\xfe\x00", "not an SVG"),
        (b"", "not an SVG"),
        (b"\x1f\x8b\x08", "not an SVG"),
    ):
        (tmp_path / "a.svg").write_bytes(content)
        with pytest.raises(InputError, match=problem):
            read_svg(tmp_path / "a.svg")


def test_encodings_that_a_file_names(tmp_path: Path) -> None:
    text = svg("<title>grün</title><path d='M0 0h9v9z'/>")
    for encoding in ("utf-16", "latin-1", "cp1252"):
        (tmp_path / "a.svg").write_bytes(
            f"<?xml version='1.0' encoding='{encoding}'?>{text}".encode(encoding)
        )
        assert quietly(tmp_path / "a.svg").opacity.shape == (1, 1)


def test_reading_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_SECONDS", 0.0)
    with pytest.raises(InputError, match="too complex"):
        read_svg(svg("<path d='M0 0h9v9z'/>"))
