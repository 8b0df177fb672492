r"""What to draw: texts, pictures and embeddings with weights, and the line of text that a user writes for
them.

    a fox:1.5 | blurry:-0.3 | @cat.png:0.5        weights; @ begins the path of a picture
    a fox | @fox.npy:0.5                          or of an embedding (.npy, .safetensors)
    a fox:1:0.6                                   no pull on views that are closer than 0.6
    a red heart [0,0,0.5,1] | sky [@mask.png]:2   in the left half; where a mask is white
    seed => sprout => flower | green:0.2          a story: one after the other, cross-faded

Parts are separated by `|`, the scenes of a story by `=>`. A part ends in numbers, each after a colon: its
weight (1 without one; a negative one pushes away) and its stop. Before them may be its region in brackets:
left, top, right and bottom as shares of the picture, or `@` and the path of a mask.

Colons also occur in prose, so the number's form decides:

- with a sign, a decimal point or an exponent it is always a weight: `fox:1.5`, `blurry: -0.3`, `blade runner
  2049:2.0`;
- a bare whole number is a weight only right behind a word: `a fox:2`, but not `keycap: 5` nor `photo 16:9`;
- what follows the first weight is the stop, in any form: `fox:1:1`.

Brackets are prose, too, unless they hold four numbers or begin with `@`. A backslash before `:`, `|`, `@`,
`[`, `]`, `=>` or `\` gives that character itself; before any other character it stands for itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path

from guidance.clock import Schedule, at
from guidance.errors import InputError

#: Left, top, right and bottom, as shares of the picture's width and height.
Box = tuple[float, float, float, float]

#: No prompt's distance is longer: half the squared angle is at most π²/2.
_FARTHEST = 5.0
#: How long one scene fades into the next, as a share of a scene's time.
_FADE = 0.5
_EMBEDDINGS = (".npy", ".safetensors")

# A run of escapes and plain characters; an escape hides its separator, colon or bracket from the patterns.
_PART = re.compile(r"((?:\\.|[^|])*)\|", re.DOTALL)
_SCENE = re.compile(r"((?:\\.|(?!=>).)*)=>", re.DOTALL)
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)"
_LAST_NUMBER = re.compile(rf"((?:\\.|[^\\])*):(\s*)({_NUMBER})", re.DOTALL | re.IGNORECASE)
_SHARES = r"\s*,\s*".join([rf"({_NUMBER})"] * 4)
_REGION = re.compile(
    rf"((?:\\.|[^\\])*?)\[\s*(?:@((?:\\.|[^\\\]])*)|{_SHARES})\s*\]", re.DOTALL | re.IGNORECASE
)


@dataclass(frozen=True)
class Scene:
    """How much of scene `index` of `count` is seen at a progress in [0, 1].

    All have the same time. One fades into the next linearly, in half of that; the scenes' shares sum to 1.
    """

    index: int
    count: int

    def __call__(self, progress: float) -> float:
        return self._risen(self.index, progress) - self._risen(self.index + 1, progress)

    @property
    def alone(self) -> float:
        """The progress from which on it is seen alone."""
        return (self.index + _FADE / 2) / self.count if self.index else 0.0

    def _risen(self, boundary: int, progress: float) -> float:
        if boundary in (0, self.count):
            return float(boundary == 0)
        return min(max((progress * self.count - boundary) / _FADE + 0.5, 0.0), 1.0)


@dataclass(frozen=True)
class Prompt:
    """One aim of the guidance: exactly one of a text, a picture's path or an embedding.

    The embedding is `d` plain numbers in CLIP's joint space, of any length but zero, or the path of a file
    that holds them. `weight`: how strongly it pulls, or pushes away when negative. `stop`: a view whose
    distance times the weight's sign is less than this is left in peace, as in VQGAN-CLIP; so 0.6 stops a pull
    at the distance 0.6, and -0.9 stops a push at 0.9. `region`: the box that it acts in, or the path of a
    mask. `fade`: a schedule of numbers, at least 0, that the weight is multiplied by; a story's prompts have
    a `Scene`. `templates`: sentences with `{}` for the text; its embedding is the mean over all of them.

    `str()` gives the written form, without fade and templates. Raises InputError when there is not exactly
    one aim, it is empty, a number is out of range, or the stop makes the prompt do nothing.
    """

    text: str | None = None
    image: Path | None = None
    embedding: tuple[float, ...] | Path | None = None
    weight: float = 1.0
    stop: float = -inf
    region: Box | Path | None = None
    fade: Schedule = 1.0
    templates: tuple[str, ...] = ("{}",)

    def __post_init__(self) -> None:
        given = [aim for aim in (self.text, self.image, self.embedding) if aim is not None]
        if len(given) != 1:
            raise InputError(f"a prompt is one text, image or embedding, got {len(given)} of them; give one")
        if self.text is not None and not self.text.strip():
            raise InputError(f"a prompt's text must not be empty, got {self.text!r}; say what to draw")
        if isinstance(self.embedding, tuple) and not 0 < sum(x * x for x in self.embedding) < inf:
            raise InputError(
                f"a prompt's embedding must be finite and not zero, got {str(self)!r}; give another one"
            )
        if not isfinite(self.weight):
            raise InputError(
                f"a prompt's weight must be a finite number, got {str(self)!r}; write one like 0.5 or -0.3"
            )
        if not self.stop < _FARTHEST or (self.weight < 0 < self.stop):
            raise InputError(
                f"a prompt's stop must be a distance below {_FARTHEST:g}, negative where the weight is, got "
                rf"{str(self)!r}; write one like 0.6, or \: for a colon"
            )
        if isinstance(self.region, tuple):
            left, top, right, bottom = self.region
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise InputError(
                    "a region is left, top, right and bottom, shares of the picture from 0 to 1, got "
                    rf"{str(self)!r}; write one like [0,0,0.5,1], or \[ for a bracket"
                )

    def __str__(self) -> str:
        if isinstance(self.embedding, tuple):
            written = f"an embedding of {len(self.embedding)} numbers"
        elif self.text is not None:
            written = _escape(self.text.strip())
            written = "\\" + written if written.startswith("@") else written
        else:
            written = "@" + _escape(str(self.image or self.embedding))
        if isinstance(self.region, tuple):
            written += f" [{','.join(repr(float(share)) for share in self.region)}]"
        elif self.region is not None:
            written += f" [@{_escape(str(self.region))}]"
        if self.stop > -inf:
            return f"{written}:{float(self.weight)!r}:{float(self.stop)!r}"
        return written if self.weight == 1 else f"{written}:{float(self.weight)!r}"


def parse(text: str, templates: Sequence[str] = ("{}",)) -> list[Prompt]:
    """The prompts of one line like `"a fox:1.5 | blurry:-0.3 | @cat.png:0.5"`; this module's docstring has
    the rules.

    A story is a prompt for each scene. Paths are kept, not read. `templates` are given to every prompt.
    Raises InputError for an empty line or part, for a part with more than two numbers, for weights that are
    all (nearly) zero at some time, for text that is not Unicode, and as `Prompt` does.
    """
    if not text.strip():
        raise InputError(f"the prompt must not be empty, got {text!r}; say what to draw")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the prompt is not valid UTF-8, got {text!r}; type it again") from error
    prompts = []
    for part in _split(_PART, text, "|"):
        scenes = _split(_SCENE, part, "=>")
        for index, scene in enumerate(scenes):
            fade = Scene(index, len(scenes)) if len(scenes) > 1 else 1.0
            prompts.append(_parse_prompt(scene, text, fade, tuple(templates)))
    for progress in {0.0, *(prompt.fade.alone for prompt in prompts if isinstance(prompt.fade, Scene))}:
        normalized_weights(prompts, progress)
    return prompts


def write(prompts: Sequence[Prompt]) -> str:
    """The line that `parse` reads as these prompts."""
    line = ""
    for prompt in prompts:
        goes_on = isinstance(prompt.fade, Scene) and prompt.fade.index > 0
        line += (" => " if goes_on else " | ") + str(prompt)
    return line[3:]


def parse_weighted(line: str) -> list[tuple[str, float]]:
    """Plain names and their weights, written like prompts: `"tiny | ViT-B/32:0.5"`.

    A number right behind the scheme of a path, `local-dir:5`, is the path. Raises InputError for an empty
    part, and for a weight that is not positive and finite.
    """
    parts = []
    for part in _split(_PART, line, "|"):
        match = _LAST_NUMBER.fullmatch(part)
        if match and match[1] in ("local-dir", "hf-hub"):
            match = None
        name, weight = (match[1].strip(), float(match[3])) if match else (part, 1.0)
        if not name:
            raise InputError(f"every part must name something, got an empty one in {line!r}; drop a bar")
        if not 0 < weight < inf:
            raise InputError(f"a weight must be positive and finite here, got {part!r}; leave it out")
        parts.append((_unescape(name), weight))
    return parts


def normalized_weights(prompts: Sequence[Prompt], progress: float = 1.0) -> list[float]:
    """The weights at a progress in [0, 1] over the sum of their absolute values, so that strength does not
    change with their number.

    Raises InputError without prompts and when the weights are all (nearly) zero.
    """
    if not prompts:
        raise InputError("at least one prompt is needed, got none; say what to draw")
    weights = [prompt.weight * at(prompt.fade, progress) for prompt in prompts]
    total = sum(map(abs, weights))
    if not 1e-6 < total < inf:
        got = ", ".join(f"{weight:g}" for weight in weights)
        raise InputError(
            f"the prompt's weights must not all be zero or beyond all bounds, got {got}; leave them at 1"
        )
    return [weight / total for weight in weights]


def _split(pattern: re.Pattern[str], text: str, separator: str) -> list[str]:
    # The one added here closes the last part, which a line's end would leave ambiguous with an empty one.
    return [part.strip() for part in pattern.findall(text + separator)]


def _parse_prompt(part: str, line: str, fade: Schedule, templates: tuple[str, ...]) -> Prompt:
    body, numbers = _numbers(part, line)
    if len(numbers) > 2:
        raise InputError(
            rf"a prompt has a weight and a stop, got more in {part!r}; drop one, or write \: for a colon"
        )
    weight, stop = [*numbers, *(1.0, -inf)[len(numbers) :]]
    body, region = _region(body, part)
    if not body.startswith("@"):
        return Prompt(_unescape(body), None, None, weight, stop, region, fade, templates)
    if body == "@":
        raise InputError(f"@ must be followed by a picture's path, got none in {line!r}; write @cat.png")
    path = Path(_unescape(body[1:].strip()))
    image, embedding = (None, path) if path.suffix.lower() in _EMBEDDINGS else (path, None)
    return Prompt(None, image, embedding, weight, stop, region, fade, templates)


def _numbers(part: str, line: str) -> tuple[str, list[float]]:
    """A part without the numbers at its end, and these: from the first that is a weight on."""
    body, rest = part, part
    numbers: list[float] = []
    found: list[float] = []
    while match := _LAST_NUMBER.fullmatch(rest):
        rest, space, number = match[1].strip(), match[2], match[3]
        found.insert(0, float(number))
        # Prose like "keycap: 5" and "16:9" has whole numbers, not right behind a word.
        if not number.isdecimal() or not (space or match[1][-1:].isdecimal()):
            body, numbers = rest, found.copy()
    if not part:
        raise InputError(f"every part must say something, got an empty one in {line!r}; drop a separator")
    if not body:
        raise InputError(
            f"a weight needs something to weigh, got {part!r} in {line!r}; write it before the colon"
        )
    return body, numbers


def _region(body: str, part: str) -> tuple[str, Box | Path | None]:
    """What stands before a part's region, and the region."""
    match = _REGION.fullmatch(body)
    if not match:
        return body, None
    rest, mask, *shares = match.groups()
    rest = rest.strip()
    if not rest or _REGION.fullmatch(rest) or _numbers(rest, part)[1]:
        raise InputError(
            rf"a region stands between what to draw and its weight, got {part!r}; write \[ for a bracket"
        )
    if mask is None:
        left, top, right, bottom = map(float, shares)
        return rest, (left, top, right, bottom)
    if not mask.strip():
        raise InputError(f"[@ must be followed by a mask's path, got none in {part!r}; write [@mask.png]")
    return rest, Path(_unescape(mask.strip()))


def _escape(text: str) -> str:
    return re.sub(r"[:|\\\[\]]|=(?=>)", r"\\\g<0>", text)


def _unescape(text: str) -> str:
    return re.sub(r"\\([:|@\\\[\]]|=(?=>))", r"\1", text)
