"""A loss that runs out of memory: the same value and gradient in smaller chunks, and nothing kept."""

import gc
import warnings
import weakref

import pytest
import torch

from guidance.clock import Clock
from guidance.crops import Crops
from guidance.errors import InputError
from guidance.losses import ClipLoss, DirectionalLoss, PerceptualLoss
from guidance.losses.chunks import Chunks, MemoryWarning
from guidance.prompts import parse

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")


class Full(torch.autograd.Function):
    """The identity, whose gradient is too much for the memory."""

    @staticmethod
    def forward(ctx, x, error):
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx, _):
        raise ctx.error


class Small:
    """An encoder that has memory for so many images, forwards or backwards."""

    def __init__(self, clip, room: int, error: Exception, backwards: bool) -> None:
        self.clip, self.room, self.error, self.backwards = clip, room, error, backwards
        self.image_size, self.embed_dim, self.device = clip.image_size, clip.embed_dim, clip.device
        self.encode_text, self.encode_many = clip.encode_text, clip.encode_many
        self.sizes: list[int] = []

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images))
        if len(images) > self.room:
            if not self.backwards:
                raise self.error
            images = Full.apply(images, self.error)
        return self.clip.encode_image(images)


def clip_loss(clip) -> ClipLoss:
    return ClipLoss(clip, parse("a fox:2 | snow:-1:-0.9 | red [0,0,0.5,1]"), Crops.clipdraw(Clock(seed=3), 5))


def directional(clip) -> DirectionalLoss:
    source = torch.full((1, 3, 24, 24), 0.5)
    return DirectionalLoss(clip, source, parse("a dog"), parse("a cat"), Crops.clipdraw(Clock(seed=3), 5))


def perceptual(clip) -> PerceptualLoss:
    def layers(views: torch.Tensor) -> list[torch.Tensor]:
        return [clip.encode_image(views)[:, :, None, None]]

    return PerceptualLoss(
        layers, torch.full((1, 3, 24, 24), 0.5), [2.0], Crops.clipdraw(Clock(seed=3), 4), 16
    )


def value_and_gradient(loss) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = loss(image)
    # Every member with a factor of its own, as a loss beside others may have.
    return value.detach(), *torch.autograd.grad(value @ torch.tensor([1.0, -2.0, 0.5]), image)


@pytest.mark.parametrize("error", [CUDA, CPU], ids=["cuda", "cpu"])
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("make", [clip_loss, directional, perceptual])
def test_smaller_chunks_have_the_same_gradient(clip, make, error: Exception, backwards: bool) -> None:
    expected = value_and_gradient(make(clip))
    small = Small(clip, 4, error, backwards)
    loss = make(small)
    with pytest.warns(MemoryWarning) as told:
        found = value_and_gradient(loss)
    for here, there in zip(found, expected, strict=True):
        assert torch.allclose(here, there, rtol=0, atol=1e-6)
    # 15 views, then 8, then 4.
    assert [str(w.message).split(" at once")[0] for w in told] == [
        "no memory for 15 views",
        "no memory for 8 views",
    ]
    # From then on, it knows.
    small.sizes.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = value_and_gradient(loss)
    assert max(small.sizes) == 4
    assert torch.equal(again[1], found[1])


def test_one_view_that_is_too_much_is_told(clip) -> None:
    with pytest.warns(MemoryWarning), pytest.raises(InputError, match="single view"):
        value_and_gradient(clip_loss(Small(clip, 0, CUDA, False)))


def test_other_errors_are_passed_on(clip) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        value_and_gradient(clip_loss(Small(clip, 0, RuntimeError("power cut"), False)))


def test_nothing_of_the_encoder_is_kept_until_the_backward() -> None:
    kept = []

    def loss(views: torch.Tensor, _: slice) -> torch.Tensor:
        between = torch.sin(views * 1.0)
        kept.append(weakref.ref(between))
        return (between**2).sum((1, 2, 3))

    views = torch.rand(3, 1, 2, 1, dtype=torch.float64, requires_grad=True)
    value = Chunks()(views, loss)
    gc.collect()
    assert kept[0]() is None
    assert value.requires_grad
    assert torch.autograd.gradcheck(lambda views: Chunks()(views, loss), views)


def test_without_a_gradient_none_is_computed(clip) -> None:
    class Loud(Small):
        def encode_image(self, images: torch.Tensor) -> torch.Tensor:
            assert not images.requires_grad
            assert not torch.is_grad_enabled()
            return super().encode_image(images)

    loss = clip_loss(Loud(clip, 100, CUDA, False))
    value = loss(torch.rand(1, 3, 24, 24))
    with torch.no_grad():
        loss(torch.rand(1, 3, 24, 24, requires_grad=True))
    assert not value.requires_grad


def test_what_it_does_not_have_is_no_second_derivative(clip) -> None:
    image = torch.rand(1, 3, 24, 24, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(clip_loss(clip)(image).sum(), image, create_graph=True)
