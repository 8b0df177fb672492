"""Dialects as their tools read them: the tools' documented cases, and compel itself if it is installed."""

import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidance.diffusion.dialects import Passage, check_dialect, parse_prompt
from guidance.diffusion.dialects.editing import has_edits, read_changing
from guidance.errors import InputError

DIALECTS = ("plain", "a1111", "comfy", "compel")


def phrase(prompt: str, dialect: str) -> list[tuple[str, float]]:
    """The fragments of a prompt that is one phrase."""
    (passage,) = parse_prompt(prompt, dialect)
    assert (passage.shares, passage.strength, len(passage.phrases)) == ((1.0,), 1.0, 1)
    return [(fragment.text, pytest.approx(fragment.weight)) for fragment in passage.phrases[0]]


# From the docstring of parse_prompt_attention in webui's prompt_parser.py, but for what is unbalanced there.
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).)",
            [
                *[("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55)],
                *[(", sun, ", 1.1), ("sky", 1.4641), (".", 1.1)],
            ],
        ),
        ("[[x]] ((y))", [("x", 1 / 1.21), (" ", 1.0), ("y", 1.21)]),
        ("(x: 1.5 ) (a: b) 16:9", [("x", 1.5), (" ", 1.0), ("a: b", 1.1), (" 16:9", 1.0)]),
        (r"a\\b \[c\] (d\:1.2)", [(r"a\b [c] ", 1.0), ("d:1.2", 1.1)]),
        ("(x:-0.5) BREAKFAST", [("x", -0.5), (" BREAKFAST", 1.0)]),
        ("", [("", 1.0)]),
    ],
)
def test_a1111(prompt, expected):
    assert phrase(prompt, "a1111") == expected


def test_a1111_break_begins_a_context():
    passages = parse_prompt("a BREAK b, (c BREAK d:1.2)", "a1111")
    assert [[(f.text, f.weight) for f in p.phrases[0]] for p in passages] == [
        [("a", 1.0)],
        [("b, ", 1.0), ("c", 1.2)],
        [("d", 1.2)],
    ]


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [("a BREAK", 1), ("BREAK", 1), ("BREAK a", 2), ("a BREAK (BREAK ) ", 2), ("a BREAKBREAK", 1)],
)
def test_a1111_breaks_as_webui_counts_them(prompt, parts):
    """Its tokenize_line ends a context at every BREAK, and adds a last one only if it has tokens."""
    assert len(parse_prompt(prompt, "a1111")) == parts


@pytest.mark.parametrize(
    "prompt", [" " * 50_000 + "B" + " " * 50_000, "(a) " * 25_000, "(:" + ":" * 50_000 + ")"]
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_long_prompts_are_read_in_no_time(prompt, dialect):
    """Not to be measured: what was quadratic here took minutes, or forever."""
    assert parse_prompt(prompt, dialect)


# As token_weights in ComfyUI's sd1_clip.py computes them: brackets multiply, a number replaces.
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a (b) c", [("a ", 1.0), ("b", 1.1), (" c", 1.0)]),
        ("(a:1.2)", [("a", 1.2)]),
        ("((a))", [("a", 1.21)]),
        ("((a:1.2))", [("a", 1.2)]),
        ("((a:1.2) b:1.3)", [("a", 1.2), (" b", 1.3)]),
        ("((a) b:1.3)", [("a", 1.43), (" b", 1.3)]),
        ("[a] (b:c d) (:1.2)", [("[a] ", 1.0), ("b:c d", 1.1), (" ", 1.0), (":1.2", 1.1)]),
        (r"\(a\) (b: 2)", [("(a) ", 1.0), ("b", 2.0)]),
        (r"(a\:b)", [("a:b", 1.1)]),
        ("BREAK AND", [("BREAK AND", 1.0)]),
    ],
)
def test_comfy(prompt, expected):
    assert phrase(prompt, "comfy") == expected


# From compel's test_prompt_parser.py and syntax.md.
COMPEL = [
    ("fire (flames)", [("fire flames", 1.0)]),
    ("cat hot-dog eating", [("cat hot-dog eating", 1.0)]),
    ("(flames)0.5", [("flames", 0.5)]),
    ('"flames".attend(0.5)', [("flames", 0.5)]),
    ("flames.attend(+)", [("flames", 1.1)]),
    ('"flames"+', [("flames", 1.1)]),
    ("flames-", [("flames", 0.9)]),
    ("(flowers)--- flames+++", [("flowers", 0.729), ("flames", 1.331)]),
    (
        "(pretty flowers)+, the flames are too hot",
        [("pretty flowers", 1.1), (", the flames are too hot", 1.0)],
    ),
    ("flowers fire++ flames", [("flowers", 1.0), ("fire", 1.21), ("flames", 1.0)]),
    ("a badly formed +test prompt", [("a badly formed +test prompt", 1.0)]),
    ("hamburger ((kaiser roll))", [("hamburger kaiser roll", 1.0)]),
    ("fire (flames (trees)1.5)2.0", [("fire", 1.0), ("flames", 2.0), ("trees", 3.0)]),
    (r"a \(b\) (c)1.3", [("a (b)", 1.0), ("c", 1.3)]),
    ("foo(bar)++", [("foo(bar)++", 1.0)]),
    ("", [("", 1.0)]),
]


@pytest.mark.parametrize(("prompt", "expected"), COMPEL)
def test_compel(prompt, expected):
    assert phrase(prompt, "compel") == expected


def test_compel_blends_and_conjunctions():
    (blend,) = parse_prompt('("fire", "fire flames (hot)++", "hi").blend(0.7, 0.3, 1.0)', "compel")
    assert [[f.text for f in each] for each in blend.phrases] == [["fire"], ["fire flames", "hot"], ["hi"]]
    assert blend.shares == pytest.approx((0.35, 0.15, 0.5))
    (blend,) = parse_prompt('("mountain, man", teeth).blend(1, -0.5, no_normalize)', "compel")
    assert blend.shares == (1.0, -0.5)
    first, second = parse_prompt('("a hat (on a bicycle)++", tall man).and(0.5, 2)', "compel")
    assert (first.strength, second.strength) == (0.5, 2.0)
    assert [f.text for f in first.phrases[0]] == ["a hat", "on a bicycle"]
    assert [p.shares for p in parse_prompt('("a", "b").and()', "compel")] == [(1.0,), (1.0,)]


# What compel's own parser says of whatever is balanced: one of words, weights, quotes, brackets and commas.
_words = st.sampled_from(["fox", "red", "hot-dog", "Dalí", "x2", "1.5", "it's", "a+b", r"\(a\)", "end."])
_plain = st.lists(_words, min_size=1, max_size=3).map(" ".join)
_weight = st.sampled_from(["", "+", "++", "-", "1.3", "0.5", ".attend(0.7)", ".attend(+)"])
_weighted = st.recursive(
    st.one_of(_plain, st.tuples(st.sampled_from(["fox", "red"]), st.sampled_from(["+", "--"])).map("".join)),
    lambda inner: st.builds(
        lambda a, b, w, c: f"{a} ({b}){w}{c}", inner, inner, _weight, st.sampled_from(["", ",", " x"])
    ),
    max_leaves=4,
)
_quoted = st.lists(_weighted.map('"{}"'.format), min_size=2, max_size=2).map(", ".join)
_calls = st.sampled_from([".blend(0.7, 0.3)", ".blend()", ".and(1, 0.5)", ".blend(1, -0.2, no_normalize)"])


def _alike(phrases: Sequence[Sequence[Any]]) -> list[list[tuple[str, float]]]:
    """Fragments without the spaces and the rounding that make no difference."""
    spaced = re.compile(r"([,.])")
    return [[(" ".join(spaced.sub(r" \1 ", f.text).split()), round(f.weight, 9)) for f in p] for p in phrases]


@pytest.fixture(scope="module")
def compels_own() -> ModuleType:
    return pytest.importorskip("compel.prompt_parser")


@settings(max_examples=25, deadline=None)
@given(st.one_of(_weighted, st.builds("({}){}".format, _quoted, _calls)))
def test_compel_as_compel_reads_it(compels_own, prompt):
    theirs = compels_own.PromptParser().parse_conjunction(prompt)
    expected = []
    for part, strength in zip(theirs.prompts, theirs.weights, strict=True):
        blend = isinstance(part, compels_own.Blend)
        total = sum(part.weights) if blend and part.normalize_weights else 1.0
        phrases = [prompt.children for prompt in (part.prompts if blend else [part])]
        shares = [weight / total for weight in part.weights] if blend else [1.0]
        expected.append((_alike(phrases), pytest.approx(shares), strength))
    passages = parse_prompt(prompt, "compel")
    assert [(_alike(p.phrases), list(p.shares), p.strength) for p in passages] == expected


def over_steps(prompt: str, steps: int) -> list[list]:
    """A prompt's texts as webui's doctests have them: [the last step of each, counted from 1, the text]."""
    changing, found = read_changing(prompt, editing=True), []
    for step in range(steps):
        (text,) = changing.at(step, steps)
        found = found[:-1] if found and found[-1][1] == text else found
        found.append([step + 1, text])
    return found


# From the docstring of get_learned_conditioning_prompt_schedules, but for what is unbalanced there.
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("test", [[10, "test"]]),
        ("a [b:3]", [[3, "a "], [10, "a b"]]),
        ("a [b: 3]", [[3, "a "], [10, "a b"]]),
        ("a [[[b]]:2]", [[2, "a "], [10, "a [[b]]"]]),
        ("[(a:2):3]", [[3, ""], [10, "(a:2)"]]),
        ("a [b : c : 1] d", [[1, "a b  d"], [10, "a  c  d"]]),
        ("a[b:[c:d:2]:1]e", [[1, "abe"], [2, "ace"], [10, "ade"]]),
        ("a [b:.5] c", [[5, "a  c"], [10, "a b c"]]),
        ("[a|(b:1.1)]", [[i, "(b:1.1)" if i % 2 == 0 else "a"] for i in range(1, 11)]),
        ("[fe|]male", [[i, "male" if i % 2 == 0 else "female"] for i in range(1, 11)]),
        (
            "[fe|||]male",
            [[1, "female"], [4, "male"], [5, "female"], [8, "male"], [9, "female"], [10, "male"]],
        ),
        ("a [b::4]", [[4, "a b"], [10, "a "]]),
        ("a [b] [c:d] (e:1.2)", [[10, "a [b] [c:d] (e:1.2)"]]),
        (r"\[a:b:3\]", [[10, r"\[a:b:3\]"]]),
        ("a [b:1e400] [c:-3]", [[10, "a  c"]]),
    ],
)
def test_prompt_editing(prompt, expected):
    assert over_steps(prompt, 10) == expected
    assert has_edits(prompt) == (over_steps(prompt, 10) != [[10, prompt]])


def test_prompt_editing_over_a_hundred_steps():
    prompt = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75]"
        "[ in foreground::0.6][: in background:0.25] [shoddy:masterful:0.5]"
    )
    assert over_steps(prompt, 100) == [
        [25, "fantasy landscape with a mountain and an oak in foreground shoddy"],
        [50, "fantasy landscape with a lake and an oak in foreground in background shoddy"],
        [60, "fantasy landscape with a lake and an oak in foreground in background masterful"],
        [75, "fantasy landscape with a lake and an oak in background masterful"],
        [100, "fantasy landscape with a lake and a christmas tree in background masterful"],
    ]


def test_a_story_fades_from_scene_to_scene():
    story = read_changing(r"seed => sprout \=> x => [a:b:2]", editing=False)
    assert [list(story.at(i, 12)) for i in (0, 5, 11)] == [["seed"], ["sprout => x"], ["[a:b:2]"]]
    assert story.at(4, 12) == pytest.approx({"seed": 0.5, "sprout => x": 0.5})
    assert all(sum(story.at(i, 37).values()) == pytest.approx(1) for i in range(37))


@pytest.mark.parametrize(
    ("prompt", "dialect", "said"),
    [
        ("a (b", "a1111", "bracket ( at character 3"),
        ("a [b", "a1111", "bracket [ at character 3"),
        ("(a]", "a1111", "bracket ] at character 3"),
        ("a)", "comfy", "bracket ) at character 2 of 'a)' closes nothing"),
        ("a badly (formed prompt", "compel", "bracket ( at character 9"),
        ("(" * 1000 + ")" * 1000, "comfy", "at most 50 deep"),
        ("(a:1e7)", "comfy", "at most 1e+06 in all, got 1e+07"),
        ("((a)100000)100000", "compel", "at most 1e+06 in all, got 1e+10"),
        ('("a", "b").and(1, 10000000)', "compel", "at most 1e+06 in all, got 1e+07"),
        ("(a:" + "1." * 9999 + ")", "a1111", "finite number, got '1.1.1"),
        ("a \udcff", "plain", "a prompt must be Unicode"),
        ("(a:abc)", "a1111", "finite number, got 'abc'"),
        ("(a:1.2.3)", "a1111", "finite number, got '1.2.3'"),
        ("(a:inf)", "a1111", "finite number, got 'inf'"),
        ("(a:nan)", "comfy", "finite number, got 'nan'"),
        ("(a:abc)", "comfy", "finite number, got 'abc'"),
        ("(a)1.2.3", "compel", "finite number, got '1.2.3'"),
        ("(a).attend(much)", "compel", "finite number, got 'much'"),
        ('("a", "b").blend(1)', "compel", "2 prompts need as many weights, got 1"),
        ('("a", "b").blend(1, x)', "compel", "finite number, got 'x'"),
        ('("a", "b").blend(1, -1)', "compel", "sum to zero"),
        ("a cat.swap(dog)", "compel", "swapping attention"),
        ('a ("b", "c").blend(1, 1)', "compel", "inside of a prompt"),
        ("a fox withLora(x)", "compel", "a LoRA"),
        ("a cat AND a dog", "a1111", "AND"),
    ],
)
def test_what_cannot_be_meant_is_one_line(prompt, dialect, said):
    with pytest.raises(InputError, match=re.escape(said)) as error:
        parse_prompt(prompt, dialect)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 250


def test_an_unknown_dialect_is_one_line():
    with pytest.raises(
        InputError, match="one of plain, a1111, comfy, compel, got 'a111'; did you mean a1111"
    ):
        check_dialect("a111")


def test_what_cannot_change_is_one_line():
    with pytest.raises(InputError, match="steps or a share of them, got 'soon'"):
        read_changing("[a:b:soon]", editing=True)
    with pytest.raises(InputError, match="every scene"):
        read_changing("a => ", editing=False)


_syntax = st.text(st.sampled_from('ab (((()))[]:|\\,.+-="0123 \n=>é'), max_size=40)
_words_only = st.text(
    st.characters(exclude_characters='()[]:\\|+-"=.,', exclude_categories=["Cs"]), max_size=40
)


@settings(max_examples=400, deadline=None)
@given(st.one_of(_syntax, st.text(max_size=30)), st.sampled_from(DIALECTS))
def test_any_text_is_read_or_refused(prompt, dialect):
    try:
        passages = parse_prompt(prompt, dialect)
        for step in (0, 3):
            read_changing(prompt, editing=dialect == "a1111").at(step, 4)
    except InputError:
        return
    assert passages
    assert all(isinstance(p, Passage) and p.phrases and all(p.phrases) for p in passages)


@settings(max_examples=200, deadline=None)
@given(_words_only.filter(lambda text: not re.search(r"\b(AND|BREAK)\b|Lora|\0", text)))
def test_text_without_syntax_is_itself(prompt):
    for dialect in ("plain", "a1111", "comfy"):
        assert phrase(prompt, dialect) == [(prompt, 1.0)]
    assert phrase(prompt, "compel") == [(" ".join(prompt.split()), 1.0)]
