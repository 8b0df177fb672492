"""Text encoders against diffusers' pipelines, open_clip's towers, and the formulas of other tools."""

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase

from guidance.clip import Clip, load
from guidance.clip.tokenize import PromptWarning
from guidance.diffusion.conditioning import blend
from guidance.diffusion.from_clip import text_encoder
from guidance.diffusion.text_encoders import TextEncoders
from guidance.errors import InputError

TEXTS = ["a red heart", "Two foxes, 3.5 m apart!", "ein größeres Herz", "红心", ""]
LONG = ", ".join(f"{colour} fox" for colour in ("red", "blue", "green", "white", "black") * 4)


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights throughout: biases and gains that are zero or one would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def clip() -> Clip:
    """A small open_clip model with OpenAI's tokenizer and a context of 16."""
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 32}
    text = {"context_length": 16, "width": 32, "heads": 4, "layers": 3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(48, vision, text, quick_gelu=True)
    set_model_preprocess_cfg(model, vars(PreprocessCfg(size=32)))
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    return Clip(perturbed(model), tokenizer, name="small", embed_dim=48, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def parts(clip: Clip) -> tuple[CLIPTextModel, PreTrainedTokenizerBase]:
    return text_encoder(clip)


@pytest.fixture(scope="module")
def encoders(parts: tuple[CLIPTextModel, PreTrainedTokenizerBase]) -> TextEncoders:
    return TextEncoders([parts[0]], [parts[1]])


@pytest.fixture(scope="module")
def xl(parts: tuple[CLIPTextModel, PreTrainedTokenizerBase]) -> tuple[list, list]:
    """SDXL's two: models, tokenizers."""
    settings = {"hidden_size": 24, "intermediate_size": 50, "num_hidden_layers": 3, "num_attention_heads": 3}
    config = CLIPTextConfig(
        **settings, max_position_embeddings=16, projection_dim=20, eos_token_id=49407, bos_token_id=49406
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        second = perturbed(CLIPTextModelWithProjection(config))
    return [parts[0], second], [parts[1], parts[1]]


def rows(clip: Clip, texts: list[str]) -> Tensor:
    """The last layer at every token, as open_clip computes it."""
    model = clip._model
    hidden = model.token_embedding(clip._tokenizer(texts)) + model.positional_embedding
    return model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask))


def test_rows_are_open_clips(clip, encoders):
    hidden = encoders.encode(TEXTS).hidden
    for row, theirs, tokens in zip(hidden, rows(clip, TEXTS), clip._tokenizer(TEXTS), strict=True):
        end = int(tokens.argmax()) + 1  # open_clip pads with zeros, Stable Diffusion with the end's token
        torch.testing.assert_close(row[:end], theirs[:end], rtol=0, atol=1e-6)
    assert (encoders.width, encoders.context_length) == (32, 16) == (hidden.shape[2], hidden.shape[1])


@pytest.mark.parametrize("name", ["tiny", "vit-quickgelu"])
def test_trained_towers_with_a_tokenizer_of_their_own(name, model_folder: Callable[..., Path]):
    clip = load(name if name == "tiny" else f"local-dir:{model_folder(name)}")
    model, tokenizer = text_encoder(clip)
    texts = ["a red heart, fox", "ein rotes Herz", "赤いハート", "  two   spaces ", ""]
    found = TextEncoders([model], [tokenizer]).encode(texts)
    torch.testing.assert_close(found.hidden, rows(clip, texts), rtol=0, atol=1e-6)


def test_what_is_swapped_in_loads_as_transformers_loads_it(parts, encoders, tmp_path):
    for part in parts:
        part.save_pretrained(tmp_path)
    again = TextEncoders(
        [CLIPTextModel.from_pretrained(tmp_path)], [type(parts[1]).from_pretrained(tmp_path)]
    )
    assert torch.equal(again.encode(TEXTS[:2]).hidden, encoders.encode(TEXTS[:2]).hidden)


def test_towers_that_cannot_be_swapped_in(clip, model_folder, tmp_path):
    with pytest.raises(InputError, match="'small' has 32 numbers a token, and the denoiser takes 768"):
        text_encoder(clip, width=768)
    blank = shutil.copytree(model_folder("vit"), tmp_path / "vit")
    other = load(f"local-dir:{blank}")
    other._model.attn_mask = None
    with pytest.raises(InputError, match="no causal transformer of CLIP's kind"):
        text_encoder(other)


def test_stable_diffusion_1_as_diffusers_encodes_it(parts, encoders):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline(None, *parts, None, None, None, None, requires_safety_checker=False)
    theirs = pipe.encode_prompt(TEXTS, "cpu", 1, False)[0]
    torch.testing.assert_close(encoders.encode(TEXTS).hidden, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip_reads_an_earlier_layer(clip, encoders, skip):
    """diffusers' own fails with transformers 5; so against open_clip's blocks, one by one."""
    model, text = clip._model, "a red heart, a red fox in the snow, a cat and"
    hidden = model.token_embedding(clip._tokenizer([text])) + model.positional_embedding
    for block in model.transformer.resblocks[: 3 - skip]:
        hidden = block(hidden, attn_mask=model.attn_mask)
    found = encoders.encode(text, clip_skip=skip).hidden
    torch.testing.assert_close(found, model.ln_final(hidden), rtol=0, atol=1e-6)


@pytest.mark.parametrize("skip", [0, 1])
def test_sdxl_as_diffusers_encodes_it(xl, skip):
    from diffusers import StableDiffusionXLPipeline

    models, tokenizers = xl
    pipe = StableDiffusionXLPipeline(None, *models, *tokenizers, None, None)
    hidden, _, pooled, _ = pipe.encode_prompt(
        TEXTS, device="cpu", do_classifier_free_guidance=False, clip_skip=skip or None
    )
    found = TextEncoders(models, tokenizers).encode(TEXTS, clip_skip=skip)
    torch.testing.assert_close(found.hidden, hidden, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.pooled, pooled, rtol=0, atol=1e-6)


def test_a_prompt_is_the_same_in_any_company(encoders):
    together = encoders.encode(TEXTS)
    for i, text in enumerate(TEXTS):
        assert torch.equal(encoders.encode(text).hidden, together.hidden[i : i + 1])


@pytest.mark.parametrize("dialect", ["a1111", "comfy", "compel"])
def test_weights_of_one_change_nothing(encoders, dialect):
    plain = {"a1111": "a (red:1) heart", "comfy": "a (red:1) heart", "compel": "a (red)1 heart"}
    found = encoders.encode(plain[dialect], dialect=dialect)
    assert torch.equal(found.hidden, encoders.encode("a red heart").hidden)


def test_a1111_multiplies_and_keeps_the_mean(encoders):
    plain = encoders.encode("a red heart").hidden
    expected = plain.clone()
    expected[0, 2] *= 1.5
    expected[0, 3] /= 1.1
    expected *= plain.mean() / expected.mean()
    found = encoders.encode("a (red:1.5) [heart]", dialect="a1111").hidden
    torch.testing.assert_close(found, expected)


def test_comfy_interpolates_from_the_empty_prompt(encoders):
    plain, empty = encoders.encode("a red heart").hidden, encoders.encode("").hidden
    expected = plain.clone()
    expected[0, 2] = (plain[0, 2] - empty[0, 2]) * 1.3 + empty[0, 2]
    expected[0, 3] = empty[0, 3]
    found = encoders.encode("a (red:1.3) (heart:0)", dialect="comfy").hidden
    torch.testing.assert_close(found, expected)


def test_compel_takes_words_of_no_weight_out_of_sight(parts, encoders):
    """At weight 0 the rows are those of a model whose attention never saw the word; at 0.5 halfway."""
    model, tokenizer = parts
    tokens = tokenizer("a red heart", padding="max_length", return_tensors="pt", max_length=16).input_ids
    mask = torch.ones_like(tokens)
    mask[0, 2] = 0
    empty, plain = encoders.encode("").hidden, encoders.encode("a red heart").hidden
    with torch.no_grad():
        unseen = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    for weight, share in ((0.0, 1.0), (0.5, 0.5)):
        at = torch.ones(1, 16, 1)
        at[0, 2] = weight
        expected = (empty + ((1 - share) * plain + share * unseen - empty) * at).detach()
        found = encoders.encode(f"a (red){weight} heart", dialect="compel").hidden
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    "prompt",
    [
        "a (red)0.3 heart (blue sky)0.7, fox++",
        '("red heart", "blue fox").blend(0.7, 0.3)',
        '("red heart", "blue (fox)0.4").blend(2, -1)',
        '("red heart", "blue fox").and(1, 0.5)',
    ],
)
def test_compel_as_compel_computes_it(parts, encoders, prompt):
    compel = pytest.importorskip("compel")
    theirs = compel.Compel(tokenizer=parts[1], text_encoder=parts[0])(prompt)
    torch.testing.assert_close(encoders.encode(prompt, dialect="compel").hidden, theirs, rtol=0, atol=1e-5)


def test_blends_and_what_comes_one_after_the_other(encoders):
    fox, cat = encoders.encode(["a fox", "a cat"]), encoders.encode("a cat")
    mixed = encoders.encode('("a fox", "a cat").blend(3, 1)', dialect="compel")
    torch.testing.assert_close(mixed.hidden, blend([fox[:1], cat], [3, 1]).hidden)
    both = encoders.encode('("a fox", "a cat").and()', dialect="compel")
    broken = encoders.encode("a fox BREAK a cat", dialect="a1111")
    assert torch.equal(both.hidden, fox.hidden.reshape(1, 32, 32))
    assert torch.equal(broken.hidden, both.hidden)


def test_sdxl_weights_rows_and_leaves_the_whole(xl):
    encoders = TextEncoders(*xl)
    plain, weighted = (
        encoders.encode(prompt, dialect="comfy") for prompt in ("a red heart", "a (red:1.5) heart")
    )
    assert torch.equal(plain.pooled, weighted.pooled)
    changed = (plain.hidden != weighted.hidden).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [2]


def test_what_is_cut_off_is_told(encoders):
    with pytest.warns(PromptWarning, match="16 tokens of a context: ', red fox, blue fox, "):
        short = encoders.encode(LONG)
    assert short.hidden.shape == (1, 16, 32)
    assert (
        encoders.lost("a b c d e f g h i j k l (supercalifragilistic:1.2) x", "a1111")
        == "supercalifragilistic x"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoders.encode(LONG, long=True)
        encoders.encode("a b c d e f g h i j k l m n")


def test_long_prompts_go_on_after_a_comma(encoders):
    """As webui cuts: at the end of a context, or after its last comma; a comma beyond the end goes on."""
    told = encoders.explain(LONG, long=True)
    contexts = [[t.text for t in told if t.context == i] for i in range(told[-1].context + 1)]
    assert contexts[:2] == [
        re.findall(r"\w+|,", "red fox, blue fox, green fox, white fox, black fox"),
        re.findall(r"\w+|,", ", red fox, blue fox, green fox, white fox,"),
    ]
    assert "".join(word for words in contexts for word in words) == LONG.replace(" ", "")
    hidden = encoders.encode(LONG, long=True).hidden
    texts = [" ".join(words) for words in contexts]
    assert torch.equal(hidden, encoders.encode(texts).hidden.reshape(1, -1, 32))
    assert encoders.encode(" ".join("abcdefghijklmnopqrst"), long=True).hidden.shape[1] == 32


def test_shorter_prompts_are_filled_up_with_empty_contexts(encoders):
    both = encoders.encode(["a fox BREAK a cat", "a dog"], dialect="a1111", clip_skip=1).hidden
    dog, empty = encoders.encode(["a dog", ""], clip_skip=1).hidden
    assert torch.equal(both[1], torch.cat([dog, empty]))
    positive, negative = encoders.match(encoders.encode(LONG, long=True), encoders.encode("ugly"))
    assert positive.hidden.shape == negative.hidden.shape


def test_every_token_with_its_weight(encoders):
    told = encoders.explain('("red fox", "(hot-dog)1.5").blend(3, 1)', "compel")
    assert [(t.text, t.weight, t.context, t.share) for t in told] == [
        ("red", 1.0, 0, 0.75),
        ("fox", 1.0, 0, 0.75),
        ("hot", 1.5, 0, 0.25),
        ("-", 1.5, 0, 0.25),
        ("dog", 1.5, 0, 0.25),
    ]
    assert [t.context for t in encoders.explain("a BREAK b c", "a1111")] == [0, 1, 1]


def test_schedules_say_at_each_step_what_the_prompt_says(encoders):
    at = encoders.schedule("a [fox:cat:0.5] [|BREAK b]", 10, dialect="a1111")
    for step, text in ((0, "a fox"), (4, "a fox"), (5, "a cat BREAK b"), (9, "a cat BREAK b")):
        expected = encoders.encode([text, "BREAK BREAK"], dialect="a1111")[:1].hidden
        assert torch.equal(at(step / 10).hidden, expected)
    assert torch.equal(at(1.0).hidden, at(0.9).hidden)
    story = encoders.schedule("a fox => a cat", 4)
    fox, cat = encoders.encode("a fox"), encoders.encode("a cat")
    assert torch.equal(story(0.0).hidden, fox.hidden)
    torch.testing.assert_close(story(0.5).hidden, (fox.hidden + cat.hidden) / 2)
    with pytest.raises(InputError, match="changes with the steps; encode it by `schedule`"):
        encoders.encode("a [fox:cat:0.5]", dialect="a1111")


def test_a_learned_word_stands_for_its_vectors(clip):
    model, tokenizer = text_encoder(clip)
    encoders = TextEncoders([model], [tokenizer])
    table = model.get_input_embeddings().weight
    fox = tokenizer("red fox", add_special_tokens=False)["input_ids"]
    vectors = table[fox].clone().requires_grad_()
    encoders.learn("<Fox>", [vectors])
    found = encoders.encode("a <Fox> heart")
    torch.testing.assert_close(found.hidden, encoders.encode("a red fox heart").hidden)
    (slope,) = torch.autograd.grad(found.hidden[0, 4, 0], vectors)
    for sign in (1, -1):
        with torch.no_grad():  # in place, as an optimizer does it
            vectors[1, 3] += sign * 1e-2
            moved = encoders.encode("a <Fox> heart").hidden[0, 4, 0] - found.hidden[0, 4, 0]
            vectors[1, 3] -= sign * 1e-2
        torch.testing.assert_close(moved, sign * slope[1, 3] * 1e-2, rtol=0.1, atol=1e-5)
    with pytest.raises(InputError, match="'<Fox>' must be 32 numbers wide here, got 8"):
        encoders.learn("<Fox>", [torch.zeros(1, 8)])


@pytest.mark.parametrize("word", ["heart", "", "a b", " ", "<|endoftext|>", "\ud800"])
def test_words_that_cannot_be_learned(clip, word):
    """ "heart" is a token under another name, heart</w>: prompts must not change behind one's back."""
    encoders = TextEncoders(*([part] for part in text_encoder(clip)))
    before = encoders.encode("a red heart").hidden
    with pytest.raises(InputError, match=r"must be one word|is a token of the model already"):
        encoders.learn(word, [torch.zeros(1, 32)])
    assert torch.equal(encoders.encode("a red heart").hidden, before)


def test_learned_letters_are_a_whole_word(clip):
    encoders = TextEncoders(*([part] for part in text_encoder(clip)))
    before = encoders.encode("a foxiness").hidden
    encoders.learn("foxin", [torch.zeros(1, 32)])
    assert torch.equal(encoders.encode("a foxiness").hidden, before)
    assert [token.text for token in encoders.explain("a foxin,")] == ["a", "foxin", ","]


def test_both_encoders_learn_or_none(xl):
    encoders = TextEncoders(*xl)
    before = encoders.encode("a red fox").hidden
    with pytest.raises(InputError, match="as many vectors each"):
        encoders.learn("<fax>", [torch.zeros(1, 32), torch.zeros(2, 24)])
    assert torch.equal(encoders.encode("a red fox").hidden, before)
    assert len(encoders.explain("<fax>")) > 1


def test_mistakes_are_one_line(parts, encoders):
    with pytest.raises(InputError, match="at least one prompt"):
        encoders.encode([])
    with pytest.raises(InputError, match="clip_skip must leave one of the 3 layers, got 3"):
        encoders.encode("a", clip_skip=3)
    with pytest.raises(InputError, match="a tokenizer each, got 1 with 0"):
        TextEncoders([parts[0]], [])
