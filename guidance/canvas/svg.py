"""A scene as an SVG document."""

from html import escape

from guidance.canvas.raster import Scene


def to_svg(scene: Scene, size: int, *, member: int = 0, title: str | None = None) -> str:
    """One member of the scene's population as an SVG of `size` pixels a side, in painting order.

    Any viewer shows it like `rasterize(scene, size)`. `title` is free text, such as the prompt.

    Raises `InputError` for a member that there is not.
    """
    scene = scene.member(member)
    points = (scene.points.detach().double() * size).cpu().tolist()
    columns = (scene.segments, scene.widths.double() * size, scene.colours, scene.opacity)
    rows = zip(*(column[0].detach().cpu().tolist() for column in columns), strict=True)

    ground = _rgb(scene.background.detach().cpu().tolist())
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}"',
        f' width="{size}" height="{size}">',
        *([f"<title>{escape(_printable(title))}</title>"] if title else []),
        f'<rect width="{size}" height="{size}" fill="{ground}"/>',
        '<g fill="none" stroke-linecap="round" stroke-linejoin="round">',
    ]
    first = 0
    for segments, width, colour, opacity in rows:
        corners = [f"{x:.3f} {y:.3f}" for x, y in points[first : first + 3 * segments + 1]]
        first += 3 * segments + 1
        lines.append(
            f'<path d="M{corners[0]}C{" ".join(corners[1:])}" stroke="{_rgb(colour)}"'
            f' stroke-opacity="{opacity:.4f}" stroke-width="{width:.3f}"/>'
        )
    return "\n".join([*lines, "</g>", "</svg>"]) + "\n"


def _rgb(colour: list[float]) -> str:
    """A colour with the decimals that eight bits would lose; CSS rounds or keeps them."""
    return f"rgb({', '.join(f'{100 * channel:.2f}%' for channel in colour)})"


def _printable(text: str) -> str:
    """The text without the control characters that XML forbids."""
    return "".join(
        c
        for c in text
        if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff" and not "\ud800" <= c <= "\udfff")
    )
