"""Words learned from pictures: against diffusers' script written out, and in diffusers' own pipelines."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_pipelines import POOLED, WIDTH, diffusers_pipeline, write
from torch import Tensor
from torch.nn import functional

from guidance.clock import Clock
from guidance.diffusion.conditioning import Condition
from guidance.diffusion.inversion import Word, begin_word, load_word, save_word, teach
from guidance.diffusion.learning import Learned, denoising_error, learn, read_pictures
from guidance.diffusion.pipeline import Pipeline, load_pipeline
from guidance.errors import InputError
from guidance.media import write_png

KINDS = ["epsilon", "v_prediction"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    made = {kind: write(root / kind, prediction=kind) for kind in KINDS}
    return made | {"xl": write(root / "xl", xl=True)}


def fresh(folder: Path) -> Pipeline:
    """Anew, since its tokenizer remembers the words that it is taught."""
    return load_pipeline(f"local-dir:{folder}")


def blank(*_: object) -> Tensor:
    return torch.ones(1, 3, 8, 8)


def script_loss(theirs: Any, ids: Tensor, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """A step's loss in diffusers' examples/textual_inversion/textual_inversion.py."""
    scheduler = theirs.scheduler
    noisy_latents = scheduler.add_noise(latents, noise, times)
    encoder_hidden_states = theirs.text_encoder(ids)[0]
    model_pred = theirs.unet(noisy_latents, times, encoder_hidden_states).sample
    if scheduler.config.prediction_type == "epsilon":
        target = noise
    else:
        target = scheduler.get_velocity(latents, noise, times)
    return functional.mse_loss(model_pred.float(), target.float(), reduction="none").mean((1, 2, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_that_of_diffusers_script(kind: str, folders: dict[str, Path]) -> None:
    pipeline, theirs = fresh(folders[kind]), diffusers_pipeline(prediction=kind)
    clock, times = Clock(), torch.tensor([0, 3, 400, 999])
    latents, noise = (clock.normal(name, 4, (4, 8, 8)) for name in ("latents", "noise"))
    ids = theirs.tokenizer("a red heart", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = script_loss(theirs, ids.expand(4, -1), latents, noise, times)
        sigma = pipeline.trained.sigmas[times]
        found = denoising_error(pipeline, pipeline.text.encode("a red heart"), latents, noise, sigma)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_a_step_is_that_of_diffusers_script(folders: dict[str, Path]) -> None:
    """AdamW over the whole table, and then all rows but the new one put back."""
    pipeline, clock = fresh(folders["epsilon"]), Clock(3, seed=2)
    start = begin_word(pipeline.text, "<it>", "heart")
    learned = Learned(start.vectors, blank, (8, 8), lr=0.03)
    teach(pipeline.text, [Word("<it>", list(learned.tensors))])
    latents = clock.normal("pictures", 3, (4, 8, 8))
    optimizer = torch.optim.AdamW(learned.parameters(), weight_decay=0.5)

    def captions(_: torch.Generator, __: int) -> Condition:
        return pipeline.text.encode("a <it> here")

    untouched = pipeline.text.encode("a red heart")
    errors = [
        step.losses["error"].item()
        for step in learn(learned, captions, pipeline, latents, clock, optimizer, batch=2)
    ]

    theirs = load_pipeline_of_diffusers(folders["epsilon"])
    tokenizer, encoder = theirs.tokenizer, theirs.text_encoder
    (heart,) = tokenizer("heart", add_special_tokens=False).input_ids
    tokenizer.add_tokens("<it>")
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    number = tokenizer.convert_tokens_to_ids("<it>")
    table = encoder.get_input_embeddings().weight
    with torch.no_grad():
        table[number] = table[heart]
    original = table.detach().clone()
    theirs.unet.requires_grad_(False)
    encoder.requires_grad_(False)
    table.requires_grad_()
    optimizer = torch.optim.AdamW([table], lr=0.03, weight_decay=0.5)
    ids = tokenizer("a <it> here", padding="max_length", return_tensors="pt").input_ids
    for step in range(3):
        stream = Clock(3, 2, step).generator("learn")
        picks = torch.randint(3, (2,), generator=stream)
        spans = (torch.arange(2) + torch.rand(2, generator=stream, dtype=torch.float64)) / 2
        noise, times = torch.randn(2, 4, 8, 8, generator=stream), (1000 * spans).long()
        loss = script_loss(theirs, ids.expand(2, -1), latents[picks], noise, times).mean()
        assert errors[step] == pytest.approx(loss.item(), rel=1e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            others = torch.arange(len(table)) != number
            table[others] = original[others]
    moved = (learned.tensors[0][0] - original[number]).abs().max()
    assert moved > 0.05
    torch.testing.assert_close(learned.tensors[0][0], table[number].detach(), rtol=0, atol=2e-3)
    # Ours never had the other rows in its hands.
    assert torch.equal(pipeline.text.encode("a red heart").hidden, untouched.hidden)
    now = fresh(folders["epsilon"]).text.encode("a red heart")
    assert torch.equal(now.hidden, untouched.hidden)


def load_pipeline_of_diffusers(folder: Path, xl: bool = False) -> Any:
    return type(diffusers_pipeline(xl)).from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("k", [1, 3])
def test_diffusers_reads_a_word_as_it_was_learned(k: int, folders: dict[str, Path], tmp_path: Path) -> None:
    pipeline = fresh(folders["epsilon"])
    word = Word("<Fox>", [0.3 * Clock().normal("word", k, (WIDTH,))])
    save_word(tmp_path / "fox.safetensors", word)
    teach(pipeline.text, [load_word(tmp_path / "fox.safetensors")])
    theirs = load_pipeline_of_diffusers(folders["epsilon"])
    theirs.load_textual_inversion(str(tmp_path), weight_name="fox.safetensors")
    # Side by side: this tokenizer has tokens for the blanks that diffusers puts between.
    tokens = "".join(["<Fox>", "<Fox>_1", "<Fox>_2"][:k])
    ids = theirs.tokenizer(f"a {tokens} in snow", padding="max_length", return_tensors="pt").input_ids
    expected = theirs.text_encoder(ids).last_hidden_state
    found = pipeline.text.encode("a <Fox> in snow").hidden
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, pipeline.text.encode("a fox in snow").hidden, atol=1e-2)


def test_diffusers_reads_a_word_for_xl(folders: dict[str, Path], tmp_path: Path) -> None:
    pipeline, file = fresh(folders["xl"]), tmp_path / "fox.safetensors"
    clock = Clock()
    save_word(file, Word("<it>", [clock.normal("l", 1, (WIDTH,)), clock.normal("g", 1, (16,))]))
    word = load_word(file)
    assert word.text == "<it>"
    teach(pipeline.text, [word])
    theirs, tensors = load_pipeline_of_diffusers(folders["xl"], xl=True), load_file(file)
    for key, encoder, tokenizer in (
        ("clip_l", theirs.text_encoder, theirs.tokenizer),
        ("clip_g", theirs.text_encoder_2, theirs.tokenizer_2),
    ):
        theirs.load_textual_inversion(
            {"<it>": tensors[key]}, token="<it>", text_encoder=encoder, tokenizer=tokenizer
        )
    expected, _, pooled, _ = theirs.encode_prompt(
        "a <it> here", device="cpu", do_classifier_free_guidance=False
    )
    found = pipeline.text.encode("a <it> here")
    torch.testing.assert_close(found.hidden, expected, rtol=1e-5, atol=1e-5)
    assert found.pooled is not None
    assert found.pooled.shape == (1, POOLED)
    torch.testing.assert_close(found.pooled, pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"<cat>": torch.ones(WIDTH)}, "<cat>"),
        ({"<cat>": torch.ones(2, WIDTH).half()}, "<cat>"),
        ({"emb_params": torch.ones(2, WIDTH)}, "style7"),
        ({"clip_l": torch.ones(1, WIDTH), "clip_g": torch.ones(1, 16)}, "style7"),
    ],
    ids=["script", "half", "webui", "xl"],
)
def test_words_of_other_tools_are_read(tensors: dict[str, Tensor], text: str, tmp_path: Path) -> None:
    path = tmp_path / "style7.safetensors"
    save_file(tensors, path)
    word = load_word(path)
    assert word.text == text
    assert load_word(path, "mine").text == "mine"
    for rows, tensor in zip(word.vectors, tensors.values(), strict=True):
        assert rows.dtype == torch.float32
        assert torch.equal(rows, tensor.float().view(-1, tensor.shape[-1]))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": torch.ones(2, 3, 4)}, r"tokens × numbers, and it holds \[2, 3, 4\]"),
        ({"a": torch.ones(2, 3).long()}, "tokens × numbers"),
        ({"a": torch.full((1, 4), torch.nan)}, "not finite"),
        ({"a": torch.ones(1, 4), "b": torch.ones(1, 4)}, "its tensors are a, b, which is no word"),
        ({"two words": torch.ones(1, 4)}, "a learned word is one word"),
        ({"(it:1.2)": torch.ones(1, 4)}, "a learned word is one word"),
        ({"a\x00b": torch.ones(1, 4)}, "a learned word is one word"),
        ({"a" * 101: torch.ones(1, 4)}, "a learned word is one word"),
    ],
)
def test_what_is_no_word_is_one_line(tensors: dict[str, Tensor], words: str, tmp_path: Path) -> None:
    path = tmp_path / "word.safetensors"
    save_file(tensors, path)
    with pytest.raises(InputError, match=words):
        load_word(path)


def test_files_that_are_none_are_one_line(tmp_path: Path) -> None:
    pickle = tmp_path / "learned_embeds.bin"
    torch.save({"<it>": torch.ones(1, 4)}, pickle)
    with pytest.raises(InputError, match="a pickle"):
        load_word(pickle)
    pickle.rename(tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match="cannot read the word in"):
        load_word(tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match="there is no such file"):
        load_word(tmp_path / "missing.safetensors")


def test_a_word_begins_as_another(folders: dict[str, Path]) -> None:
    text = fresh(folders["epsilon"]).text
    (rows,) = text.vectors("red heart")
    assert len(rows) == 2
    assert torch.equal(begin_word(text, "<it>", "red heart").vectors[0], rows)
    assert torch.equal(begin_word(text, "<it>", "red heart", 3).vectors[0], rows[[0, 1, 0]])
    teach(text, [begin_word(text, "<it>", "red heart")])
    assert torch.equal(text.encode("a <it> fox").hidden, text.encode("a red heart fox").hidden)
    for initial, vectors, words in (
        ("", 1, "must have a token, got ''"),
        ("fish", 0, "from 1 to 10 vectors here, got 0"),
        ("fish", 11, "from 1 to 10 vectors here, got 11"),
    ):
        with pytest.raises(InputError, match=words):
            begin_word(text, "<it>", initial, vectors)
    with pytest.raises(InputError, match="is a token of the model already"):
        teach(text, [begin_word(text, "a", "fish")])
    with pytest.raises(InputError, match="must be 32 numbers wide here, got 8"):
        teach(text, [Word("<other>", [torch.ones(1, 8)])])


def test_an_error_that_is_not_finite_stops(folders: dict[str, Path]) -> None:
    pipeline, clock = fresh(folders["epsilon"]), Clock(2)
    learned = Learned([pipeline.text.encode("fish").hidden], blank, (8, 8), lr=0.1)
    before = learned.tensors[0].detach().clone()
    steps = learn(
        learned,
        lambda _, __: Condition(learned.tensors[0] * torch.nan),
        pipeline,
        torch.zeros(1, 4, 8, 8),
        clock,
        torch.optim.Adam(learned.parameters()),
        batch=1,
    )
    with pytest.raises(FloatingPointError, match="at step 0 of 2"):
        next(steps)
    assert torch.equal(learned.tensors[0], before)
    assert clock.index == 0


def test_pictures_are_their_middle_squares(tmp_path: Path) -> None:
    wide = torch.zeros(1, 3, 20, 60)
    wide[..., 20:40] = 1
    write_png(tmp_path / "b.png", wide)
    write_png(tmp_path / "a.png", wide.mT.contiguous() * 0.2)
    (tmp_path / "notes.txt").write_text("no picture")
    images = read_pictures(tmp_path, 8)
    assert images.shape == (2, 3, 8, 8)
    torch.testing.assert_close(images[1], torch.ones(3, 8, 8))
    torch.testing.assert_close(images[0], torch.full((3, 8, 8), 0.2), atol=2e-3, rtol=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there is no picture"):
        read_pictures(tmp_path / "empty", 8)
