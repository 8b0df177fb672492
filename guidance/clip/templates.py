"""Sentences that a label is put into, so that it is a caption like those that a CLIP learned from."""

from collections.abc import Sequence
from pathlib import Path

from guidance.errors import InputError

#: The label alone.
PLAIN = ["{}"]

#: The 80 that OpenAI evaluated CLIP on ImageNet with (Radford et al. 2021, section 3.1.4, and the notebook
#: Prompt_Engineering_for_ImageNet of its repository, MIT License).
OPENAI = """\
a bad photo of a {}.
a photo of many {}.
a sculpture of a {}.
a photo of the hard to see {}.
a low resolution photo of the {}.
a rendering of a {}.
graffiti of a {}.
a bad photo of the {}.
a cropped photo of the {}.
a tattoo of a {}.
the embroidered {}.
a photo of a hard to see {}.
a bright photo of a {}.
a photo of a clean {}.
a photo of a dirty {}.
a dark photo of the {}.
a drawing of a {}.
a photo of my {}.
the plastic {}.
a photo of the cool {}.
a close-up photo of a {}.
a black and white photo of the {}.
a painting of the {}.
a painting of a {}.
a pixelated photo of the {}.
a sculpture of the {}.
a bright photo of the {}.
a cropped photo of a {}.
a plastic {}.
a photo of the dirty {}.
a jpeg corrupted photo of a {}.
a blurry photo of the {}.
a photo of the {}.
a good photo of the {}.
a rendering of the {}.
a {} in a video game.
a photo of one {}.
a doodle of a {}.
a close-up photo of the {}.
a photo of a {}.
the origami {}.
the {} in a video game.
a sketch of a {}.
a doodle of the {}.
a origami {}.
a low resolution photo of a {}.
the toy {}.
a rendition of the {}.
a photo of the clean {}.
a photo of a large {}.
a rendition of a {}.
a photo of a nice {}.
a photo of a weird {}.
a blurry photo of a {}.
a cartoon {}.
art of a {}.
a sketch of the {}.
a embroidered {}.
a pixelated photo of a {}.
itap of the {}.
a jpeg corrupted photo of the {}.
a good photo of a {}.
a plushie {}.
a photo of the nice {}.
a photo of the small {}.
a photo of the weird {}.
the cartoon {}.
art of the {}.
a drawing of the {}.
a photo of the large {}.
a black and white photo of a {}.
the plushie {}.
a dark photo of a {}.
itap of a {}.
graffiti of the {}.
a toy {}.
itap of my {}.
a photo of a cool {}.
a photo of a small {}.
a tattoo of the {}.
""".splitlines()


def read_templates(name: str) -> list[str]:
    """The templates of a name, "plain" or "openai", or of a text file: one a line, {} for the label.

    Raises InputError for a file that cannot be read, and as `check` does.
    """
    if name in ("plain", "openai"):
        return PLAIN if name == "plain" else OPENAI
    try:
        lines = Path(name).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"templates must be plain, openai or a text file, got {name!r} ({error})") from error
    check(lines)
    return lines


def check(templates: Sequence[str]) -> None:
    """Raises InputError when there is no template, and for one that has not one {}."""
    if not templates:
        raise InputError("at least one template is needed, got none; write one like: a photo of a {}.")
    for number, template in enumerate(templates, 1):
        if template.count("{}") != 1:
            raise InputError(f"a template has {{}} once, for the label; number {number} is {template!r}")


def fill(template: str, label: str) -> str:
    """A label in its place; other braces are left as they are."""
    return template.replace("{}", label)
