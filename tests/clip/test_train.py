"""Training: losses in closed form, views by arithmetic, a gradient that learns to draw, exact resume."""

import csv
import math
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from PIL import Image, ImageDraw
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from guidance import Clock, InputError, checkpoint, load
from guidance.clip.bpe import train_tokenizer
from guidance.clip.data import CaptionedPictures, Placement, place, read_captioned
from guidance.clip.train import Trainee, info_nce, save_model, train

NAMES = ["red square", "green square", "blue square", "red disc", "green disc", "blue disc"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six coloured shapes with their names in two languages."""
    folder = tmp_path_factory.mktemp("shapes")
    for name in NAMES:
        colour, shape = name.split()
        picture = Image.new("RGBA", (32, 32))
        draw = ImageDraw.Draw(picture)
        (draw.rectangle if shape == "square" else draw.ellipse)((4, 4, 27, 27), fill=colour)
        picture.save(folder / f"{name}.png")
    write(folder / "captions.csv", [{"filepath": f"{n}.png", "title": n, "split": "train"} for n in NAMES])
    german = [{"filepath": f"{n}.png", "language": "de", "title": f"{n}, gemalt"} for n in NAMES]
    write(folder / "captions_multilingual.csv", german)
    return folder


def write(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def test_info_nce_is_the_mean_of_two_cross_entropies() -> None:
    generator = torch.Generator().manual_seed(0)
    u, v = functional.normalize(torch.randn(2, 5, 8, generator=generator), dim=-1)
    logits = (7 * u @ v.T).double()
    rows = sum(-math.log(math.exp(logits[i, i]) / logits[i].exp().sum()) for i in range(5)) / 5
    columns = sum(-math.log(math.exp(logits[i, i]) / logits[:, i].exp().sum()) for i in range(5)) / 5
    assert info_nce(u, v, torch.tensor(7.0)).item() == pytest.approx((rows + columns) / 2, rel=1e-5)


def test_info_nce_is_finite_at_the_largest_scale() -> None:
    u = functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    u.requires_grad_()
    loss = info_nce(u, -u.detach(), torch.tensor(100.0))
    loss.backward()
    assert loss.isfinite()
    assert u.grad is not None
    assert u.grad.isfinite().all()


def test_captions_of_all_languages_are_read(folder: Path) -> None:
    pictures = read_captioned(folder, 16)
    assert pictures.rgba.shape == (6, 4, 16, 16)
    assert pictures.captions[0] == ["red square", "red square, gemalt"]
    assert not pictures.held_out.any()


@pytest.mark.parametrize(
    ("rows", "message"),
    [([{"file": "a.png", "title": "a"}], "filepath"), ([{"filepath": "a.png", "title": "a"}], "no picture")],
)
def test_captions_that_lack_something(tmp_path: Path, rows: list[dict], message: str) -> None:
    write(tmp_path / "captions.csv", rows)
    with pytest.raises(InputError, match=message):
        read_captioned(tmp_path, 16)


def test_captions_in_another_encoding_are_told(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_bytes("filepath,title\na.png,café\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"captions\.csv .*UTF-8"):
        read_captioned(tmp_path, 16)


def test_no_captions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"captions\.csv"):
        read_captioned(tmp_path, 16)


def placement(zoom: float = 1.0, angle: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> Placement:
    page = torch.tensor([[1.0, 0.5, 0.25]])
    return Placement(torch.tensor([zoom]), torch.tensor([angle]), torch.tensor([shift]), page)


def test_a_page_shows_through_by_the_pictures_transparency() -> None:
    opacity = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    colour = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
    seen = place(torch.cat([colour * opacity, opacity], 1), placement(), 8)
    page = torch.tensor([1.0, 0.5, 0.25]).view(1, 3, 1, 1)
    torch.testing.assert_close(seen, colour * opacity + page * (1 - opacity))


def test_a_shift_moves_by_shares_of_the_page_and_a_zoom_enlarges() -> None:
    rgba = torch.zeros(1, 4, 8, 8)
    rgba[:, 3, 3:5, 3:5] = 1
    black = (place(rgba, placement(shift=(0.25, 0.0)), 8)[:, 0] < 0.5).nonzero()[:, 1:]
    assert black.min(0).values.tolist() == [3, 1]  # seen from a frame moved to the right by two pixels
    assert black.max(0).values.tolist() == [4, 2]
    assert (place(rgba, placement(zoom=2.0), 8)[:, 0] < 0.5).sum() == 16
    assert (place(rgba, placement(zoom=0.5), 8)[:, 0] < 0.5).sum() <= 1


def beginner(image_size: int = 32) -> tuple[CLIP, dict]:
    torch.manual_seed(0)
    vision = {"image_size": image_size, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
    text = {"context_length": 12, "vocab_size": 400, "width": 32, "heads": 2, "layers": 1}
    text["hf_tokenizer_name"] = "shapes"
    config = {
        "model_cfg": {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"size": image_size, "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    return CLIP(**config["model_cfg"]), config


def tokens(pictures: CaptionedPictures) -> Tokenizer:
    return train_tokenizer([text for texts in pictures.captions for text in texts], 400)


def brushes() -> Tensor:
    """Four squares."""
    masks = torch.zeros(4, 32, 32)
    for i, mask in enumerate(masks):
        mask[6 * i : 6 * i + 12, 6 * i : 6 * i + 12] = 1
    return masks


def fresh(steps: int) -> tuple[Trainee, torch.optim.Optimizer, Clock]:
    model, config = beginner()
    trainee = Trainee(model, config["preprocess_cfg"], 16)
    return trainee, torch.optim.AdamW(trainee.model.parameters(), lr=3e-3), Clock(steps)


def test_the_gradient_learns_to_point_to_the_picture(folder: Path) -> None:
    pictures = read_captioned(folder, 40)
    trainee, _, clock = fresh(150)
    # The least tower that can have a gradient of its own for every text, so that it learns in seconds.
    trainee.model.visual = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 32))
    trainee.mean_model.visual = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 32))
    optimizer = torch.optim.AdamW(trainee.model.parameters(), lr=3e-3)
    options = {"batch": 6, "sketches": 12, "lr": 3e-3, "brushes": brushes()}
    steps = list(train(trainee, pictures, tokens(pictures), clock, optimizer, **options))
    assert [step.index for step in steps] == list(range(150))
    assert all(math.isfinite(step.contrastive) for step in steps)

    # From a blank page the gradient of a name points to its picture, more than to one of another colour.
    page = torch.ones(6, 3, 32, 32, requires_grad=True)
    texts = trainee.encode_text(torch.tensor([tokens(pictures).encode(name).ids for name in NAMES]))
    (ways,) = torch.autograd.grad((trainee.encode_image(page) * texts).sum(), page)
    whole = Placement(torch.full((6,), 0.9), torch.zeros(6), torch.zeros(6, 2), torch.ones(6, 3))
    there = place(pictures.rgba, whole, 32) - 1
    cosines = functional.cosine_similarity(ways.flatten(1)[:, None], there.flatten(1), dim=-1)
    assert (cosines.diagonal() > 0.35).all()
    colours = torch.tensor([NAMES.index(f"{name.split()[0]} square") for name in NAMES])
    others = cosines[colours[:, None] != colours]
    assert (cosines.diagonal() > others.max() + 0.1).all()


def test_a_resumed_training_is_the_same_training(folder: Path, tmp_path: Path) -> None:
    pictures = read_captioned(folder, 40)
    options = {"batch": 4, "sketches": 4, "lr": 1e-3, "brushes": brushes()}

    whole, optimizer, clock = fresh(6)
    list(train(whole, pictures, tokens(pictures), clock, optimizer, **options))

    half, optimizer, clock = fresh(6)
    for _, _ in zip(
        range(3), train(half, pictures, tokens(pictures), clock, optimizer, **options), strict=False
    ):
        pass
    checkpoint.save(tmp_path / "state.safetensors", half, optimizer, clock, 0.0)
    again, optimizer, clock = fresh(6)
    checkpoint.load(tmp_path / "state.safetensors", again, optimizer, clock)
    assert clock.index == 3
    list(train(again, pictures, tokens(pictures), clock, optimizer, **options))

    def state(trainee: Trainee) -> dict[str, Tensor]:
        return trainee.state_dict()

    assert all(torch.equal(a, b) for a, b in zip(state(whole).values(), state(again).values(), strict=True))


def test_held_out_pictures_are_never_seen(folder: Path) -> None:
    pictures = read_captioned(folder, 40)
    poisoned = CaptionedPictures(pictures.rgba.clone(), pictures.captions, torch.arange(6) == 2)
    poisoned.rgba[2] = math.nan
    trainee, optimizer, clock = fresh(20)
    options = {"batch": 5, "sketches": 16, "lr": 1e-3, "brushes": brushes()}
    steps = list(train(trainee, poisoned, tokens(pictures), clock, optimizer, **options))
    assert all(math.isfinite(step.contrastive) and math.isfinite(step.alignment) for step in steps)


def test_the_mean_model_has_the_towers_statistics(folder: Path) -> None:
    trainee, _, clock = fresh(3)
    for model in (trainee.model, trainee.mean_model):
        model.visual = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 32 * 32), nn.Linear(3 * 32 * 32, 32))
    optimizer = torch.optim.AdamW(trainee.model.parameters())
    pictures = read_captioned(folder, 40)
    options = {"batch": 4, "sketches": 4, "lr": 1e-3, "brushes": brushes()}
    list(train(trainee, pictures, tokens(pictures), clock, optimizer, **options))
    now, mean = (dict(model.visual.named_buffers()) for model in (trainee.model, trainee.mean_model))
    assert now["1.running_mean"].abs().max() > 0
    assert all(torch.equal(now[name], mean[name]) for name in now)


def test_a_saved_model_is_a_model_of_open_clip_and_of_ours(folder: Path, tmp_path: Path) -> None:
    pictures = read_captioned(folder, 40)
    model, config = beginner()
    texts = [text for captions in pictures.captions for text in captions]
    save_model(tmp_path, model.half().float(), config, tokens(pictures), texts)

    theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    expected = theirs.encode_text(tokenizer(["Red  Square", "a blue disc"]), normalize=True)
    ours = load(f"local-dir:{tmp_path}")
    torch.testing.assert_close(ours.encode_text(["Red  Square", "a blue disc"]), expected, atol=1e-5, rtol=0)

    # What training computes is what the finished model says.
    trainee = Trainee(model.half().float(), config["preprocess_cfg"], 1)
    ids = [tokens(pictures).encode("green square, gemalt").ids]
    torch.testing.assert_close(
        trainee.encode_text(torch.tensor(ids)), ours.encode_text(["green square, gemalt"]), atol=1e-5, rtol=0
    )
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(trainee.encode_image(image), ours.encode_image(image), atol=1e-4, rtol=0)


def test_any_language_survives_the_tokenizer(folder: Path) -> None:
    tokenizer = tokens(read_captioned(folder, 16))
    for text in ("ein rotes herz", "赤いハート", "قلب أحمر", "🙂"):
        assert tokenizer.decode(tokenizer.encode(text).ids).strip() == text
    encoded = tokenizer.encode("red square").ids
    assert encoded[-1] == tokenizer.get_vocab_size() - 1 == max(encoded)
