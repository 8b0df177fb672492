"""The prompt's written form: what users mean by colons, bars and backslashes, and that it reads back."""

from math import inf
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidance.clock import linear
from guidance.errors import InputError
from guidance.prompts import Prompt, Scene, normalized_weights, parse, parse_weighted, write


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
        ("@fox.npy:0.5", [Prompt(embedding=Path("fox.npy"), weight=0.5)]),
        ("@Fox.SafeTensors", [Prompt(embedding=Path("Fox.SafeTensors"))]),
        ("@ my cats/1.png:0.5", [Prompt(image=Path("my cats/1.png"), weight=0.5)]),
        (r"@C:\cats\1.png:-2", [Prompt(image=Path(r"C:\cats\1.png"), weight=-2.0)]),
        ("me@home", [Prompt("me@home")]),
        # Stops.
        ("a fox:1.5:0.6", [Prompt("a fox", weight=1.5, stop=0.6)]),
        ("a fox:1:1", [Prompt("a fox", weight=1.0, stop=1.0)]),
        ("blurry: -1.0 : -0.9", [Prompt("blurry", weight=-1.0, stop=-0.9)]),
        ("at 7:30:0.5", [Prompt("at 7:30", weight=0.5)]),
        ("at 7:30:0.5:0.25", [Prompt("at 7:30", weight=0.5, stop=0.25)]),
        ("at 7:30:00:00", [Prompt("at 7:30:00:00")]),
        # Regions.
        ("a fox [0,0,0.5,1]", [Prompt("a fox", region=(0.0, 0.0, 0.5, 1.0))]),
        ("a fox[ .5, 0 ,1, 5e-1 ] :2.0", [Prompt("a fox", weight=2.0, region=(0.5, 0.0, 1.0, 0.5))]),
        ("@cat.png [0,0,1,1]:1:0.5", [Prompt(None, Path("cat.png"), None, 1.0, 0.5, (0.0, 0.0, 1.0, 1.0))]),
        ("a fox [@my masks/a.png]", [Prompt("a fox", region=Path("my masks/a.png"))]),
        (r"a fox [@C:\m\1\].png]:2", [Prompt("a fox", weight=2.0, region=Path(r"C:\m\1].png"))]),
        ("keycap [#]", [Prompt("keycap [#]")]),
        ("a [0,0,1,1] of brackets", [Prompt("a [0,0,1,1] of brackets")]),
        ("a chord [1,3,5]", [Prompt("a chord [1,3,5]")]),
        (r"a chord \[1,3,5,7]", [Prompt("a chord [1,3,5,7]")]),
        # Stories.
        ("a => b", [Prompt("a", fade=Scene(0, 2)), Prompt("b", fade=Scene(1, 2))]),
        (
            "a:2 | b=>c:0.5:0.25|d",
            [
                Prompt("a", weight=2.0),
                Prompt("b", fade=Scene(0, 2)),
                Prompt("c", weight=0.5, stop=0.25, fade=Scene(1, 2)),
                Prompt("d"),
            ],
        ),
        (r"a \=> b = > c", [Prompt("a => b = > c")]),
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
        ("a fox:1.5:2:3", "weight and a stop"),
        ("caf\udce9", "UTF-8"),
        ("@caf\udce9.png", "UTF-8"),
        ("a fox:1:2:3", "weight and a stop"),
        ("a fox:1:nan", "stop"),
        ("a fox:1:inf", "stop"),
        ("the daily show:10:30", "stop"),
        ("blurry:-1:0.9", "negative where the weight is"),
        ("a fox [0,0,2,1]", "shares"),
        ("a fox [0.5,0,0.5,1]", "shares"),
        ("a fox [0,nan,1,1]", "shares"),
        ("[0,0,1,1]", "between"),
        ("a:0.5 [0,0,1,1]", "between"),
        ("a [0,0,1,1] [@m.png]", "between"),
        ("a [@]", "mask's path"),
        ("a =>", "empty one"),
        ("a => => b", "empty one"),
        ("a:0 => b", "zero"),
        ("a => b:0 => c", "zero"),
        ("a:1e308 | b => c:1e308", "bounds"),
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


@pytest.mark.parametrize("count", [2, 3, 7])
def test_scenes_follow_each_other_in_equal_times(count: int) -> None:
    scenes = [Scene(index, count) for index in range(count)]
    for progress in [i / 1000 for i in range(1001)]:
        shares = [scene(progress) for scene in scenes]
        assert sum(shares) == pytest.approx(1)
        assert min(shares) >= 0
        assert sum(share > 0 for share in shares) <= 2
        assert max(range(count), key=shares.__getitem__) in (int(progress * count), int(progress * count) - 1)
    for index, scene in enumerate(scenes):
        assert scene((index + 0.5) / count) == 1
        assert scene(scene.alone) == pytest.approx(1)
        if index:
            assert scene(index / count) == pytest.approx(0.5)
            assert scene(scene.alone - 0.01) < 1


def test_weights_follow_the_story() -> None:
    prompts = parse("a:3 => b | c:-1")
    assert normalized_weights(prompts, 0) == [0.75, 0, -0.25]
    assert normalized_weights(prompts, 0.5) == pytest.approx([1.5 / 3, 0.5 / 3, -1 / 3])
    assert normalized_weights(prompts, 1) == [0, 0.5, -0.5]
    ours = [Prompt("a", fade=linear(1, 0)), Prompt("b", weight=2.0, fade=lambda progress: progress)]
    assert normalized_weights(ours, 0.25) == pytest.approx([0.75 / 1.25, 0.5 / 1.25])


TRICKY = st.text(
    alphabet=st.sampled_from(list("a 1.,:|@\\-+e\n[]=>")) | st.characters(exclude_categories=["Cs"])
)
WORDS = TRICKY.map(str.strip).filter(bool)
WEIGHTS = st.just(1.0) | st.floats(-1e6, 1e6).filter(lambda weight: abs(weight) > 1e-6)
SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda ends: ends[0] != ends[1]).map(sorted)
BOXES = st.tuples(SHARES, SHARES).map(lambda ends: (ends[0][0], ends[1][0], ends[0][1], ends[1][1]))
PATHS = WORDS.map(Path)
AIMS = st.sampled_from(["text", "image", "embedding"])
# Values, and no prompts: to check a tuple, beartype draws an item of it, which no strategy may do.
PARTS = st.tuples(AIMS, WORDS, WEIGHTS, st.just(inf) | st.floats(-5, 5), st.none() | BOXES | PATHS)


def prompt(
    aim: str, words: str, weight: float, stop: float, region: Path | None, fade: object = 1.0
) -> Prompt:
    aims = {"text": words, "image": Path(words), "embedding": Path(f"{words}x.npy")}
    stop = -inf if stop == inf else -abs(stop) if weight < 0 else min(stop, 4.9)
    return Prompt(**{aim: aims[aim]}, weight=weight, stop=stop, region=region, fade=fade)


@given(st.lists(st.lists(PARTS, min_size=1, max_size=3), min_size=1, max_size=3))
@settings(deadline=None)
def test_what_is_written_reads_back(stories: list) -> None:
    prompts = [
        prompt(*scene, Scene(index, len(scenes)) if len(scenes) > 1 else 1.0)
        for scenes in stories
        for index, scene in enumerate(scenes)
    ]
    assert parse(write(prompts)) == prompts


@given(PARTS)
@settings(deadline=None)
def test_one_prompt_reads_back(part: tuple) -> None:
    assert parse(str(prompt(*part))) == [prompt(*part)]


@given(WORDS, WEIGHTS, st.floats(-5, 0), BOXES)
@settings(deadline=None)
def test_numbers_and_regions_never_leak_into_the_text(
    words: str, weight: float, stop: float, box: tuple[float, float, float, float]
) -> None:
    plain = str(Prompt(words))
    for spaced in ("{} [{}, {},{} ,{}] : {!r}:{!r}", "{}[{},{},{},{}]:{!r}: {!r}"):
        assert parse(spaced.format(plain, *box, weight, stop)) == [
            Prompt(words, weight=weight, stop=stop, region=box)
        ]


@given(TRICKY)
@settings(deadline=None)
def test_any_line_gives_prompts_or_a_message(line: str) -> None:
    message, prompts = "", []
    try:
        prompts = parse(line)
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert not prompts or parse(write(prompts)) == prompts


@given(TRICKY)
@settings(deadline=None)
def test_names_with_weights_are_read_or_refused(line: str) -> None:
    try:
        parts = parse_weighted(line)
    except InputError:
        return
    assert all(name.strip() and 0 < weight < inf for name, weight in parts)


def test_names_with_weights() -> None:
    assert parse_weighted("tiny") == [("tiny", 1.0)]
    assert parse_weighted(" hf-hub:a/b | local-dir:x y:0.5|ViT-B/32:2") == [
        ("hf-hub:a/b", 1.0),
        ("local-dir:x y", 0.5),
        ("ViT-B/32", 2.0),
    ]
    assert parse_weighted("local-dir:5 | local-dir:5:2") == [("local-dir:5", 1.0), ("local-dir:5", 2.0)]
