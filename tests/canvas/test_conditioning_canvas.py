"""The conditioning as a canvas on a small pipeline: its gradient, its memory, its bound."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from guidance.canvas import Conditioning
from guidance.clock import Clock
from guidance.diffusion.conditioning import Condition, stack
from guidance.diffusion.pipeline import Pipeline, load_pipeline
from guidance.diffusion.rendering import renderer
from guidance.errors import InputError

sys.path.append(str(Path(__file__).parents[1] / "diffusion"))
from small_pipelines import write

SIDES = (16, 16)


def small(folder: Path, xl: bool) -> Pipeline:
    loaded = load_pipeline(f"local-dir:{write(folder, xl=xl)}").with_scheduler("dpm++")
    with torch.no_grad():  # grey pictures: where they are clamped, the gradient is not that of the clamp
        loaded.vae._model.decoder.conv_out.weight.mul_(0.2)
    return loaded


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return small(tmp_path_factory.mktemp("pipeline"), xl=False)


def canvas(pipeline: Pipeline, *, b: int = 1, seed: int = 0, steps: int = 3, **more: bool) -> Conditioning:
    noise = pipeline.noise(Clock(seed=seed), b, SIDES)
    negative = pipeline.text.encode("fish")
    render = renderer(pipeline, noise, negative, steps=steps, scale=3.0, seed=seed, **more)
    return Conditioning(render, stack([pipeline.text.encode("a red heart")] * b))


def loss(image: Tensor) -> Tensor:
    return (image * torch.linspace(-1, 1, image[0].numel()).view_as(image[:1])).sum()


def test_its_gradient_is_that_of_finite_differences(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pipeline = small(tmp_path, xl=True)
    # The package computes in float32, where differences drown; here all that it casts is float64, and DDIM
    # casts nothing.
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    for model in (pipeline.unet, pipeline.vae._model):
        model.double()
    drawn = canvas(pipeline.with_scheduler("ddim"), steps=2).double()
    loss(drawn()).backward()
    for parameter in drawn.parameters():
        direction = Clock().normal("direction", 1, parameter.shape[1:]).double()
        assert parameter.grad is not None
        slope = (parameter.grad * direction).sum().item()
        values = []
        for way in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(way * direction)
                values.append(loss(drawn()).item())
                parameter.sub_(way * direction)
        assert abs(slope) > 1e-3
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-5)


def kept(drawn: Conditioning) -> tuple[int, Tensor]:
    """The bytes that the backward pass waits with, and the gradient."""
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        image = drawn()
    loss(image).backward()
    assert drawn.hidden.grad is not None
    return total, drawn.hidden.grad


def test_checkpoints_change_the_memory_and_nothing_else(pipeline: Pipeline) -> None:
    bounded, plain = (kept(canvas(pipeline, checkpointed=wanted)) for wanted in (True, False))
    torch.testing.assert_close(bounded[1], plain[1], rtol=1e-5, atol=1e-9)
    assert bounded[0] < plain[0] / 20
    # Each further step keeps a few latents, and no activations.
    more = kept(canvas(pipeline, steps=5))[0] - bounded[0]
    assert more < 2 * 20 * pipeline.noise(Clock(), 1, SIDES).nbytes


def test_a_population_is_single_pictures(pipeline: Pipeline) -> None:
    together = canvas(pipeline, b=2, seed=3)
    loss(together()).backward()
    for member in range(2):
        alone = canvas(pipeline, seed=3 + member)
        image = alone()
        loss(image).backward()
        torch.testing.assert_close(image[0], together()[member], rtol=0, atol=1e-5)
        assert together.hidden.grad is not None
        assert alone.hidden.grad is not None
        torch.testing.assert_close(alone.hidden.grad[0], together.hidden.grad[member], rtol=1e-3, atol=1e-5)


def test_the_same_embedding_is_the_same_picture(pipeline: Pipeline) -> None:
    drawn = canvas(pipeline.with_scheduler("euler-ancestral"))
    assert torch.equal(drawn(), drawn())


def test_rows_stay_near_what_they_begin_as() -> None:
    start = Clock().normal("hidden", 2, (3, 8))
    drawn = Conditioning(lambda condition: condition.hidden, Condition(start), radius=0.25)
    far = torch.tensor([0.1, 0.2, 4.0])[:, None] * torch.ones(2, 3, 8) / 8**0.5
    far = far * start.norm(dim=-1, keepdim=True)
    with torch.no_grad():
        drawn.hidden.add_(far)
    before = drawn.hidden.detach().clone()
    drawn.project_()
    assert torch.equal(drawn.hidden[:, :2], before[:, :2])
    moved = (drawn.hidden - start)[:, 2]
    torch.testing.assert_close(moved, far[:, 2] / 16)


def test_mistakes_are_one_line() -> None:
    condition = Condition(torch.zeros(1, 2, 3))
    with pytest.raises(InputError, match="radius must be above 0, got 0"):
        Conditioning(lambda c: c.hidden, condition, radius=0)
    with pytest.raises(InputError, match="generate must be a function, got a module"):
        Conditioning(nn.Identity(), condition)
