"""The elements of an SVG document that nobody vouches for.

expat, which Python brings along, calls us for every element, so that a hostile document is refused before a
tree of it exists; libraries that make XML safe (defusedxml) build the tree first, and limit neither depth nor
number. expat opens no files and no connections.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from guidance.errors import InputError

#: Caps far above any drawing: 100,000 strokes fit. The worst of many hostile files took about a minute.
MAX_BYTES = 64_000_000
MAX_DEPTH = 64
MAX_ELEMENTS = 200_000
MAX_WORK = 8_000_000
MAX_SECONDS = 60.0

_SPACES = ("http://www.w3.org/2000/svg", "")  # icons that were cut out of HTML name no namespace
_LINK = "http://www.w3.org/1999/xlink href"
_BLANK = "\ufeff \t\r\n"


class Budget:
    """What reading one document may cost: steps of work, of some microseconds each, and seconds."""

    def __init__(self) -> None:
        self._left = MAX_WORK
        self._deadline = time.monotonic() + MAX_SECONDS

    def spend(self, steps: int) -> None:
        """Raises `InputError` when the document costs more than is allowed."""
        self._left -= steps
        if self._left < 0 or time.monotonic() > self._deadline:
            raise InputError("the SVG is too complex (too many elements, path commands or uses); simplify it")


@dataclass(eq=False)
class Element:
    """An element by its local name, "" if it is not SVG's; its own attributes; text is kept of `style`."""

    name: str
    attributes: dict[str, str]
    parent: "Element | None"
    children: list["Element"] = field(default_factory=list)
    text: str = ""


def load(source: Path | str) -> tuple[bytes, str | None]:
    """The bytes of a document and, if the document does not say, their encoding.

    `source` names the file, or is the document if it begins with "<".

    Raises `InputError` when there is no such file, it cannot be read or has over 64 million bytes.
    """
    encoding = None
    if isinstance(source, str) and source.lstrip(_BLANK).startswith("<"):
        data, encoding = source.lstrip(_BLANK).encode(errors="replace"), "utf-8"
    else:
        try:
            if not Path(source).is_file():  # opening a pipe would wait for ever
                raise FileNotFoundError
            with open(source, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise InputError(f"there is no SVG file at {str(source)[:200]!r}; check the name") from None
        except OSError as error:
            raise InputError(f"cannot read {str(source)[:200]!r} ({error}); give an SVG file") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"the SVG has more than {MAX_BYTES:,} bytes; simplify it")
    return data, encoding


def parse(data: bytes, encoding: str | None = None) -> Element:
    """The root of a document.

    A DOCTYPE that names a public definition is passed over, never fetched; one that declares anything is
    refused, and with it all entities but XML's own. Raises `InputError` for that, for malformed XML, another
    root than `svg`, over 64 levels and over 200,000 elements.
    """
    top = Element("", {}, None)
    at, depth, count = top, 0, 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal at, depth, count
        depth, count = depth + 1, count + 1
        if depth > MAX_DEPTH:
            raise InputError(f"the SVG has more than {MAX_DEPTH} levels of elements; simplify it")
        if count > MAX_ELEMENTS:
            raise InputError(f"the SVG has more than {MAX_ELEMENTS:,} elements; simplify it")
        space, _, local = name.rpartition(" ")
        own = {key: value for key, value in attributes.items() if " " not in key}
        if _LINK in attributes:
            own.setdefault("href", attributes[_LINK])
        at = Element(local if space in _SPACES else "", own, at)
        assert at.parent is not None
        at.parent.children.append(at)

    def end(name: str) -> None:
        nonlocal at, depth
        depth -= 1
        assert at.parent is not None
        at.text = "".join(texts)
        texts.clear()
        at = at.parent

    texts: list[str] = []

    def characters(text: str) -> None:
        if at.name == "style":
            texts.append(text)

    def doctype(name: str, system: str | None, public: str | None, declares: int) -> None:
        if declares:
            raise InputError("the SVG declares entities or a DTD, which is not safe; remove its DOCTYPE")

    parser = expat.ParserCreate(encoding, namespace_separator=" ")
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise InputError(f"not an SVG: {error}; give a well-formed file") from error
    except (LookupError, UnicodeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not an SVG: its encoding cannot be read ({error}); save it as UTF-8") from error
    root = top.children[0]
    if root.name != "svg":
        raise InputError("not an SVG: its outermost element is not svg")
    root.parent = None
    return root
