"""Tokens against open_clip's tokenizers; what is warned about."""

import warnings

import open_clip
import pytest
import torch

from guidance.clip import PromptWarning, load
from guidance.clip.tokenize import FileTokenizer, overflow, read_words, words

PROMPTS = [
    "a red heart", "  Two   Foxes &amp; a “quote”\n", "", "ein rotes Herz, größer!", "un cœur d'été",
    "🦊🦊 fox 3.5", "красное сердце", "κόκκινη καρδιά", "قلب أحمر", "לב אדום", "लाल दिल", "หัวใจสีแดง",
    "红心", "赤いハート", "빨간 하트", "trái tim đỏ", "İstanbul kırmızı",
    "a very long prompt about everything that there is in the world",
]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"tokenizer_kwargs": {"clean": "canonicalize"}}])
@pytest.mark.parametrize("length", [None, 5, 40])
def test_tokens_equal_open_clips(model_folder, options, length):
    folder = model_folder("vit")
    ours = FileTokenizer(folder, {"context_length": 16} | options)
    theirs = open_clip.get_tokenizer(f"local-dir:{folder}", **options.get("tokenizer_kwargs", {}))
    assert torch.equal(ours(PROMPTS, length), theirs(PROMPTS, length))
    assert ours.context_length == theirs.context_length


def test_words_of_many_scripts():
    assert words("A red-haired FOX's 3 kits_here!") == ["a", "red", "haired", "fox", "s", "3", "kits", "here"]
    assert words("Größer, été; ЛИСА") == ["größer", "été", "лиса"]
    assert words("लाल दिल") == ["लाल", "दिल"]
    assert words("قلبٌ أحمر") == ["قلبٌ", "أحمر"]
    assert words("빨간 하트") == ["빨간", "하트"]
    assert words("赤いハート") == list("赤いハート")
    assert words("หัวใจ red") == [*"หัวใจ", "red"]
    assert words("ＡＢＣ 🦊 …") == ["abc"]


TOKENIZERS = ["vit", "open_clip"]


def tokenizer_of(kind, model_folder):
    if kind == "open_clip":
        return open_clip.get_tokenizer("ViT-B-32")
    return FileTokenizer(model_folder(kind), {"context_length": 16})


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    "sentence", ["the quick brown fox jumps over it ", "красное сердце и лиса ", "红心和狐狸"]
)
def test_the_words_that_do_not_fit_are_exactly_those(model_folder, kind, sentence):
    """Without the named end the row is complete; with one more word it is not."""
    tokenizer = tokenizer_of(kind, model_folder)
    text = sentence * 40
    lost = overflow(tokenizer, text)
    kept = text[: len(text) - len(lost)]
    assert lost
    assert kept + lost == text
    assert overflow(tokenizer, kept) == ""
    piece = lost[0] if sentence.strip() == sentence else lost.split()[0]
    assert overflow(tokenizer, kept + piece) == piece
    roomy = tokenizer([kept], 4 * len(text))
    end = tokenizer([kept])
    assert torch.equal(roomy[:, : end.shape[1]], end)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_row_that_is_exactly_full_loses_nothing(model_folder, kind):
    tokenizer = tokenizer_of(kind, model_folder)
    content = (tokenizer(["a a a"])[0] != tokenizer([""])[0, -1]).sum() - 5
    full = " ".join(["a"] * (tokenizer.context_length - 2))
    assert content == 0  # one token a word, and two around them
    assert overflow(tokenizer, full) == ""
    assert overflow(tokenizer, full + " a") == "a"


def warnings_of(clip, text: str) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clip.encode_text([text])
    assert all(w.category is PromptWarning for w in caught)
    return [str(w.message) for w in caught]


def test_a_prompt_that_is_understood_gives_no_warning(model_folder):
    clip = load(f"local-dir:{model_folder('vit')}")
    for text in ["a red heart", "ROTES Herz!", "红心", "ein fox"]:
        assert warnings_of(clip, text) == []


def test_a_long_prompt_names_the_words_it_loses_once(model_folder):
    clip = load(f"local-dir:{model_folder('vit')}")
    text = "a red heart " * 10 + "and the fox"
    (message, *_) = warnings_of(clip, text)
    assert "too long" in message
    assert "the fox'" in message
    assert "\n" not in message
    assert warnings_of(clip, text) == []


def test_new_words_are_named_with_a_larger_model(model_folder):
    clip = load(f"local-dir:{model_folder('vit')}")
    (message,) = warnings_of(clip, "red yak, Yak!")
    assert "has never seen 'yak';" in message
    assert "ViT-B-32/laion2b_s34b_b79k" in message
    assert "'狐'" in warnings_of(clip, "红狐")[0]


def test_the_list_of_words_is_optional_and_may_be_plain(tmp_path):
    assert read_words(tmp_path) is None
    (tmp_path / "words.txt").write_text("fox\nröd\n", encoding="utf-8")
    assert {"fox", "röd"} <= read_words(tmp_path)
