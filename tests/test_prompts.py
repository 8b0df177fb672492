"""The prompt's written form: what users mean by colons, bars and backslashes, and that it reads back."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidance.errors import InputError
from guidance.prompts import Prompt, normalized_weights, parse


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a fox", [Prompt("a fox")]),
        ("  a fox :1.5|blurry: -0.3 ", [Prompt("a fox", weight=1.5), Prompt("blurry", weight=-0.3)]),
        ("a fox:2", [Prompt("a fox", weight=2.0)]),
        ("a fox:+2e-1 | b:.5", [Prompt("a fox", weight=0.2), Prompt("b", weight=0.5)]),
        ("blade runner 2049:2.0", [Prompt("blade runner 2049", weight=2.0)]),
        ("赤いハート:0.5", [Prompt("赤いハート", weight=0.5)]),
        # Prose with colons.
        ("keycap: 5", [Prompt("keycap: 5")]),
        ("a photo 16:9", [Prompt("a photo 16:9")]),
        ("ratio 16:9 photo", [Prompt("ratio 16:9 photo")]),
        ("a clock at 7:00:00", [Prompt("a clock at 7:00:00")]),
        ("Santa Claus: dark skin tone:0.5", [Prompt("Santa Claus: dark skin tone", weight=0.5)]),
        # Pictures.
        ("@cat.png", [Prompt(image=Path("cat.png"))]),
        ("@ my cats/1.png:0.5", [Prompt(image=Path("my cats/1.png"), weight=0.5)]),
        (r"@C:\cats\1.png:-2", [Prompt(image=Path(r"C:\cats\1.png"), weight=-2.0)]),
        ("me@home", [Prompt("me@home")]),
        # Escapes.
        (r"a fox\:1.5", [Prompt("a fox:1.5")]),
        (r"a\|b | c", [Prompt("a|b"), Prompt("c")]),
        (r"\@home", [Prompt("@home")]),
        (r"a\\|b", [Prompt("a\\"), Prompt("b")]),
        (r"a\\:2", [Prompt("a\\", weight=2.0)]),
        ("over\\", [Prompt("over\\")]),
    ],
)
def test_lines(line: str, expected: list[Prompt]) -> None:
    assert parse(line) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("a fox|", "empty one"),
        ("|", "empty one"),
        ("a || b", "empty one"),
        (":0.5", "something to weigh"),
        ("a |:2", "something to weigh"),
        ("@", "path"),
        ("@:0.5", "path"),
        ("a:0", "zero"),
        ("a:0.0 | b:-1e-9", "zero"),
        ("a:1e308 | b:1e308", "bounds"),
        ("a:nan", "finite"),
        ("a: -inf | b", "finite"),
        ("a:1e999", "finite"),
        ("a fox:1.5:2", "two"),
        ("caf\udce9", "UTF-8"),
        ("@caf\udce9.png", "UTF-8"),
        ("a fox:1:0.5", "two"),
    ],
)
def test_mistakes_are_told_in_one_line(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        parse(line)
    assert "\n" not in str(error.value)
    assert str(error.value).isprintable()


def test_a_prompt_is_exactly_one_thing() -> None:
    for wrong in (
        {},
        {"text": "a", "image": Path("b")},
        {"text": " "},
        {"embedding": (0.0, 0.0)},
        {"embedding": (1.0, float("nan"))},
        {"text": "a\nb", "weight": float("inf")},
    ):
        with pytest.raises(InputError) as error:
            Prompt(**wrong)
        assert "\n" not in str(error.value)


def test_weights_keep_their_signs_and_proportions() -> None:
    assert normalized_weights(parse("a:3 | b:-1")) == [0.75, -0.25]
    assert normalized_weights(parse("a:7")) == [1.0]
    with pytest.raises(InputError, match="none"):
        normalized_weights([])


TRICKY = st.text(alphabet=st.sampled_from(list("a 1.:|@\\-+e\n")) | st.characters(exclude_categories=["Cs"]))
WORDS = TRICKY.map(str.strip).filter(bool)
WEIGHTS = st.just(1.0) | st.floats(-1e6, 1e6).filter(lambda weight: abs(weight) > 1e-6)


@given(st.lists(st.tuples(st.booleans(), WORDS, WEIGHTS), min_size=1, max_size=4))
@settings(deadline=None)
def test_what_is_written_reads_back(parts: list[tuple[bool, str, float]]) -> None:
    prompts = [
        Prompt(image=Path(words), weight=weight) if picture else Prompt(words, weight=weight)
        for picture, words, weight in parts
    ]
    assert parse(" | ".join(map(str, prompts))) == prompts


@given(TRICKY)
@settings(deadline=None)
def test_any_line_gives_prompts_or_a_message(line: str) -> None:
    message, prompts = "", []
    try:
        prompts = parse(line)
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert not prompts or parse(" | ".join(map(str, prompts))) == prompts
