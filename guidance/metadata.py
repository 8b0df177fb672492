"""How a picture was made, said in the picture, and read from there.

A picture's *facts* are `{"recipe": str, "settings": {...}, "versions": {...}}`, `"member"` if it is one of a
population, and `"files"`, with their digests, if it was made with some. They are kept whole, as JSON, for
`guidance rerun`, and said in the words of others:

- PNG, as international text: "Description" and "Software" are PNG's own keywords, which ImageMagick and
  ExifTool list; "parameters" is what Stable Diffusion's web UIs and galleries read; XMP is for Adobe's
  programs, digiKam and ExifTool.
- SVG: Dublin Core in RDF, which Inkscape shows as the document's properties.
- mp4: title and comment, which players show.
"""

import json
import os
from html import escape
from pathlib import Path
from xml.parsers import expat

from PIL import Image

from guidance import __version__
from guidance.canvas.svg.document import MAX_BYTES
from guidance.canvas.svg.write import printable
from guidance.errors import InputError

_SOFTWARE = f"clip-guidance {__version__}"
_OURS = "urn:clip-guidance"
_NAMES = (
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    ' xmlns:cc="http://creativecommons.org/ns#" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
)


def for_png(facts: dict) -> dict[str, str]:
    """The texts of a PNG, by keyword."""
    prompt = _prompt(facts)
    return {
        "Description": prompt,
        "Software": _SOFTWARE,
        "guidance": json.dumps(facts, ensure_ascii=False),
        "parameters": f"{prompt}\n{_parameters(facts)}",
        "XML:com.adobe.xmp": f"""\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {_NAMES}><rdf:Description rdf:about="">
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{escape(prompt)}</rdf:li></rdf:Alt></dc:description>
<xmp:CreatorTool>{_SOFTWARE}</xmp:CreatorTool>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>""",
    }


def for_svg(facts: dict) -> str:
    """What the `metadata` element of an SVG holds."""
    # JSON in ASCII has none of the characters that XML forbids or changes.
    return f"""\
<rdf:RDF {_NAMES}><cc:Work rdf:about="">
<dc:format>image/svg+xml</dc:format>
<dc:type rdf:resource="http://purl.org/dc/dcmitype/StillImage"/>
<dc:title>{escape(_prompt(facts))}</dc:title>
<dc:creator><cc:Agent><dc:title>{_SOFTWARE}</dc:title></cc:Agent></dc:creator>
<dc:description>{escape(_parameters(facts))}</dc:description>
</cc:Work></rdf:RDF>
<run xmlns="{_OURS}">{escape(json.dumps(facts), quote=False)}</run>"""


def for_film(facts: dict) -> dict[str, str]:
    """The tags of a film."""
    return {"title": _prompt(facts), "comment": json.dumps(facts, ensure_ascii=False)}


def read(path: Path) -> dict:
    """How a PNG or SVG says that it was made.

    Raises InputError when there is no such file, it is neither, and when it does not say so.
    """
    if not os.path.isfile(path):
        raise InputError(f"there is no picture at {path}; check the name")
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES)
    text = _in_png(path) if data.startswith(b"\x89PNG") else _in_svg(data)
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    kinds = {"recipe": str, "settings": dict, "versions": dict}
    if not isinstance(facts, dict) or not all(isinstance(facts.get(name), kinds[name]) for name in kinds):
        raise InputError(f"{path} does not say how it was made; give a PNG or SVG of ours, or a run's folder")
    return facts


def _prompt(facts: dict) -> str:
    return printable(str(facts["settings"].get("prompt", "")))


def _parameters(facts: dict) -> str:
    """The last line of what Stable Diffusion's web UIs write: `Name: value, Name: "a value, with commas"`."""
    settings = facts["settings"]
    values = {
        "Steps": settings.get("steps"),
        "Sampler": f"guidance {facts['recipe']}",
        "Seed": _seed(facts),
        "Model": settings.get("clip"),
        "Version": _SOFTWARE,
    }
    said = {name: printable(str(value)) for name, value in values.items() if value is not None}
    quoted = {
        name: json.dumps(value, ensure_ascii=False) if set(value) & set(',:\n"') else value
        for name, value in said.items()
    }
    return ", ".join(f"{name}: {value}" for name, value in quoted.items())


def _seed(facts: dict) -> object:
    """Member i of a population is what the seed + i alone makes."""
    seed = facts["settings"].get("seed")
    return seed + facts.get("member", 0) if isinstance(seed, int) else seed


def _in_png(path: Path) -> str:
    try:
        with Image.open(path, formats=["PNG"]) as file:
            return str(file.info.get("guidance", ""))
    except Exception as error:  # Pillow raises nearly anything on a broken file
        raise InputError(f"cannot read {path} ({error}); give a whole PNG") from error


def _in_svg(data: bytes) -> str:
    texts: list[str] = []
    inside = False

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal inside
        inside = name == f"{_OURS} run"

    def end(name: str) -> None:
        nonlocal inside
        inside = False

    def characters(text: str) -> None:
        if inside:
            texts.append(text)

    def doctype(name: str, system: str | None, public: str | None, declares: int) -> None:
        if declares:
            raise InputError("the SVG declares entities or a DTD, which is not safe; remove its DOCTYPE")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, UnicodeError) as error:
        raise InputError(f"neither a PNG nor an SVG: {error}; give a picture of ours") from error
    return "".join(texts)
