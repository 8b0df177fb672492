"""Augmented views of an image as one differentiable batch: what keeps CLIP's gradient from painting noise.

All motions of a view are one homography, sampled once. Beside kornia, which samples at every motion
and does not antialias (benchmarks/crops.py), that is 4 to 8 times as quick at 64², 2.5 times with all motions
and jitter at 224², and 0.6 times for CLIPDraw's two motions at 224²: the price of antialiasing.
"""

from dataclasses import dataclass
from math import inf, log, pi

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from guidance.clock import Clock, Schedule, at, linear
from guidance.errors import InputError
from guidance.warp import warp

#: Candidate boxes of a random resized crop, of which the first that fits is taken (as in torchvision).
_TRIES = 10
#: More views of an image than this are taken for a mistake; they would not fit into memory.
MAX_CROPS = 1000
#: RGB to luma and two axes of chroma (NTSC's YIQ): hue is an angle between the two, grey is neither.
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


@dataclass(frozen=True)
class Crops:
    """k random views of every image: others at every step of the clock, the same at the same step.

    Member i of a population sees what a single image sees with `clock.seed + i`, and the first views do not
    depend on how many follow. Every augmentation is off unless asked for: the default is the largest square.
    In this order, each applied to a view with its probability:

    - affine (`affine_p`): `rotation` and `shear` by up to so many degrees either way, `translation` by up to
      this share of the frame either way;
    - `perspective` (`perspective_p`): every corner moves inwards by up to this share of half the frame, in
      [0, 1);
    - `flip`: the probability of a mirror image;
    - crop: the share `whole` of the views shows the whole frame, padded to a square; the others a box whose
      share of the area is uniform in `scale` and whose width over height is log-uniform in `ratio`, stretched
      to a square;
    - colour jitter (`jitter_p`): `brightness`, `contrast` and `saturation` times up to 1 ± so much, `hue`
      turned by up to this share of the circle either way; `grey`: the probability of no colour at all;
    - erasing (`erasing_p`): a box whose share of the view is uniform in `erasing`, of width over height in
      0.3-3.3;
    - `noise`: Gaussian, its standard deviation uniform in [0, noise]. Without it, views are in [0, 1].

    What is outside of the frame or erased has the colour `fill`. `scale` and `noise` may be schedules.
    Crops of the same `stream` draw the same views, of another one others: each model of several has its own.
    Raises InputError for values out of range; there are at most 1000 views of an image.
    """

    clock: Clock
    k: int = 1
    scale: tuple[Schedule, Schedule] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    whole: float = 0.0
    rotation: float = 0.0
    shear: float = 0.0
    translation: float = 0.0
    affine_p: float = 1.0
    perspective: float = 0.0
    perspective_p: float = 1.0
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter_p: float = 1.0
    grey: float = 0.0
    erasing: tuple[float, float] = (0.0, 0.0)
    erasing_p: float = 1.0
    noise: Schedule = 0.0
    fill: tuple[float, float, float] = (1.0, 1.0, 1.0)
    stream: str = "crops"

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_CROPS:
            raise InputError(f"crops must be from 1 to {MAX_CROPS}, got {self.k}")
        if not 0 <= self.perspective < 1:
            raise InputError(f"perspective must be at least 0 and less than 1, got {self.perspective}")
        if not 0 < self.ratio[0] <= self.ratio[1] < inf:
            raise InputError(f"ratio must be two positive numbers, the smaller first, got {self.ratio}")
        for name in ("whole", "affine_p", "perspective_p", "flip", "jitter_p", "grey", "erasing_p"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise InputError(f"{name} must be between 0 and 1, got {share}")
        for name in ("rotation", "shear", "translation", "brightness", "contrast", "saturation", "hue"):
            if not 0 <= (strength := getattr(self, name)) < inf:
                raise InputError(f"{name} must be at least 0 and finite, got {strength}")
        if len(self.fill) != 3 or not all(0 <= channel <= 1 for channel in self.fill):
            raise InputError(f"fill must be three numbers in [0, 1], got {self.fill}")
        if not 0 <= self.erasing[0] <= self.erasing[1] <= 1:
            raise InputError(f"erasing must be two shares in [0, 1], the smaller first, got {self.erasing}")
        for progress in (0.0, 1.0):
            low, high = (at(bound, progress) for bound in self.scale)
            if not 0 < low <= high <= 1:
                raise InputError(f"scale must be two shares in (0, 1], the smaller first, got {(low, high)}")
            if not 0 <= (deviation := at(self.noise, progress)) < inf:
                raise InputError(f"noise must be at least 0 and finite, got {deviation}")

    @classmethod
    def calm(cls, clock: Clock, k: int = 8) -> "Crops":
        """The whole picture, hardly moved, with noise that fades: for guides trained to draw.

        Such a guide (`tiny`) learned from pictures that all lie in nearly the same place; views that move
        more blur the form. A model trained only to name needs wilder ones.
        """
        return cls(clock, k, whole=1.0, rotation=2.0, translation=0.02, noise=linear(0.05, 0.0))

    @classmethod
    def drifting(cls, clock: Clock, k: int = 8) -> "Crops":
        """Nearly the whole picture, never still: on pixels the grid of the guide's own would show."""
        return cls(clock, k, scale=(0.9, 1.0), rotation=4.0, translation=0.04, noise=linear(0.2, 0.02))

    @classmethod
    def clipdraw(cls, clock: Clock, k: int = 4) -> "Crops":
        """CLIPDraw's views (Frans et al., 2021): perspective, then a crop of 0.7-0.9, on white.

        Here one antialiased sampling, there two bilinear ones. StyleCLIPDraw's are the same with k = 10.
        """
        return cls(clock, k, perspective=0.5, scale=(0.7, 0.9), ratio=(3 / 4, 4 / 3))

    @classmethod
    def clipasso(cls, clock: Clock, k: int = 4) -> "Crops":
        """CLIPasso's augmented views (Vinker et al., 2022): perspective, then a crop of 0.8, on black.

        Its plain view is one of `clean_views`; at one step, picture and drawing are seen through the same.
        """
        return cls(clock, k, perspective=0.5, scale=(0.8, 0.8), fill=(0.0, 0.0, 0.0))

    @classmethod
    def vqgan_clip(cls, clock: Clock, k: int = 32) -> "Crops":
        """VQGAN-CLIP's views of the whole frame: affine, perspective, jitter, erasing, noise, on black.

        Here every view has its own erased box (there one for all), the frame is shrunk by averaging (there
        the mean of average and maximum), and a frame that is not square is padded (there squashed).
        """
        return cls(
            clock,
            k,
            whole=1.0,
            rotation=15.0,
            shear=5.0,
            translation=0.1,
            affine_p=0.7,
            perspective=0.7,
            perspective_p=0.7,
            brightness=0.1,
            contrast=0.1,
            saturation=0.1,
            hue=0.1,
            jitter_p=0.7,
            erasing=(0.1, 0.4),
            erasing_p=0.7,
            noise=0.1,
            fill=(0.0, 0.0, 0.0),
        )

    @classmethod
    def pixray(cls, clock: Clock, k: int = 30) -> "Crops":
        """pixray's views: perspective, 60 % crops of 0.25-0.95 and 40 % the whole frame, on black.

        Here whole views have the crops' perspective (there 0.2) and no margin of 5 %, and every zoomed view
        is cropped (there 70 % of them).
        """
        return cls(
            clock,
            k,
            whole=0.4,
            scale=(0.25, 0.95),
            ratio=(0.85, 1.2),
            perspective=0.4,
            perspective_p=0.7,
            saturation=0.1,
            hue=0.1,
            jitter_p=0.8,
            noise=0.1,
            fill=(0.0, 0.0, 0.0),
        )

    @classmethod
    def aphantasia(cls, clock: Clock, k: int = 190) -> "Crops":
        """aphantasia's views: squares of a third to all of a wide frame's short side, turned, on black.

        Here sizes are uniform in area (there in side), the frame is turned and tilted before it is cropped,
        so that the corners show the frame (there the crop is, and they are black), and views of "macro forms"
        show the whole frame (there 0.9-1 of the short side).
        """
        return cls(
            clock,
            k,
            whole=0.4,
            scale=(0.05, 1.0),
            perspective=0.33,
            perspective_p=0.2,
            rotation=30.0,
            erasing=(0.02, 0.33),
            erasing_p=0.2,
            fill=(0.0, 0.0, 0.0),
        )

    def __call__(self, images: Float[Tensor, "b 3 h w"], size: int) -> Float[Tensor, "b k 3 {size} {size}"]:
        """The views at the clock's present step, `size` pixels a side, differentiable to the images."""
        b, _, h, w = images.shape
        views = self._box(b, h, w)
        if self.perspective > 0:
            views = self._perspective(b) @ views
        if self.rotation or self.shear or self.translation:
            views = self._affine(b, h, w) @ views
        pixels = warp(images, views, size, self.fill)
        if self.brightness or self.contrast or self.saturation or self.hue or self.grey:
            pixels = self._jitter(pixels)
        if self.erasing[1] > 0:
            pixels = self._erase(pixels)
        if (strength := at(self.noise, self.clock.progress)) > 0:
            pixels = self._add_noise(pixels, strength)
        return pixels

    def _uniform(self, name: str, b: int, n: int) -> Float64[Tensor, "b k n"]:
        # On the CPU always: the same views on every device, and more rows leave the first as they are.
        return self.clock.uniform(f"{self.stream}/{name}", b, (self.k, n)).double()

    def _box(self, b: int, h: int, w: int) -> Float64[Tensor, "b k 3 3"]:
        u = self._uniform("crop", b, 4 + 2 * _TRIES)
        low, high = (at(bound, self.clock.progress) for bound in self.scale)
        area = low + (high - low) * u[..., 4 : 4 + _TRIES]
        ratio = torch.exp(log(self.ratio[0]) + log(self.ratio[1] / self.ratio[0]) * u[..., 4 + _TRIES :])
        # A box's share of the frame's width and height; where none fits, the largest with a valid ratio.
        boxes = torch.stack([(area * ratio * h / w).sqrt(), (area / ratio * w / h).sqrt()], -1)
        widest = min(max(w / h, self.ratio[0]), self.ratio[1]) * h / w
        largest = u.new_tensor([widest, 1 / widest]).clamp(max=1)
        fits = (boxes <= 1 + 1e-9).all(-1)
        first = fits.int().argmax(-1)[..., None, None].expand(-1, -1, 1, 2)
        box = torch.where(fits.any(-1, keepdim=True), boxes.gather(-2, first)[..., 0, :], largest)
        centre = (1 - box) * (2 * u[..., 2:4] - 1)
        whole = u[..., 0:1] < self.whole
        box = torch.where(whole, u.new_tensor([max(h, w) / w, max(h, w) / h]), box)
        mirror = torch.where(u[..., 1:2] < self.flip, u.new_tensor([-1.0, 1.0]), u.new_tensor([1.0, 1.0]))
        return _scaling(box * mirror, torch.where(whole, 0.0, centre))

    def _perspective(self, b: int) -> Float64[Tensor, "b k 3 3"]:
        u = self._uniform("perspective", b, 9)
        corners = u.new_tensor([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]])
        inwards = 1 - self.perspective * u[..., :8].unflatten(-1, (4, 2))
        inwards = torch.where(u[..., 8:, None] < self.perspective_p, inwards, 1.0)
        moved = corners * F.pad(inwards, (0, 1), value=1.0)
        return _projective_basis(corners) @ torch.linalg.inv(_projective_basis(moved))

    def _affine(self, b: int, h: int, w: int) -> Float64[Tensor, "b k 3 3"]:
        u = self._uniform("affine", b, 5)
        signed = torch.where(u[..., 4:] < self.affine_p, 2 * u[..., :4] - 1, 0.0)
        angle, shear = signed[..., 0] * self.rotation * pi / 180, signed[..., 1] * self.shear * pi / 180
        cos, sin, tan = angle.cos(), angle.sin(), shear.tan()
        turn = torch.stack([cos, cos * tan - sin, sin, sin * tan + cos], -1).unflatten(-1, (2, 2))
        # Angles are angles in pixels, whatever the frame's aspect.
        aspect = u.new_tensor([w, h])
        matrix = torch.eye(3, dtype=u.dtype).repeat(b, self.k, 1, 1)
        matrix[..., :2, :2] = turn * aspect / aspect[:, None]
        matrix[..., :2, 2] = 2 * self.translation * signed[..., 2:]
        return matrix

    def _jitter(self, pixels: Float[Tensor, "b k 3 s s"]) -> Float[Tensor, "b k 3 s s"]:
        """Brightness, contrast, saturation and hue as one affine map of colours.

        Hue turns the plane of chroma, which keeps luma; peers shift HSV's hue, which does not.
        """
        u = self._uniform("jitter", len(pixels), 6)
        signed = torch.where(u[..., 4:5] < self.jitter_p, 2 * u[..., :4] - 1, 0.0)
        strengths = u.new_tensor([self.brightness, self.contrast, self.saturation])
        brightness, contrast, saturation = (1 + signed[..., :3] * strengths).clamp(min=0).unbind(-1)
        saturation = torch.where(u[..., 5] < self.grey, 0.0, saturation)
        angle = signed[..., 3] * self.hue * 2 * pi
        one, zero, cos, sin = torch.ones_like(angle), torch.zeros_like(angle), angle.cos(), angle.sin()
        chroma = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], -1).unflatten(-1, (3, 3))
        chroma[..., 1:, :] *= saturation[..., None, None]
        yiq = u.new_tensor(_YIQ)
        colours = (contrast * brightness)[..., None, None] * (torch.linalg.inv(yiq) @ chroma @ yiq)
        pivot = ((1 - contrast) * brightness)[..., None] * yiq[0]
        colours, pivot = colours.to(pixels), pivot.to(pixels)
        flat = pixels.flatten(3)
        grey = (pivot * flat.mean(-1)).sum(-1)
        return (colours @ flat + grey[..., None, None]).clamp(0, 1).view_as(pixels)

    def _erase(self, pixels: Float[Tensor, "b k 3 s s"]) -> Float[Tensor, "b k 3 s s"]:
        u = self._uniform("erasing", len(pixels), 5)
        area = self.erasing[0] + (self.erasing[1] - self.erasing[0]) * u[..., 0:1]
        ratio = torch.exp(log(0.3) * (2 * u[..., 1:2] - 1))
        sides = torch.cat([(area * ratio).sqrt(), (area / ratio).sqrt()], -1).clamp(max=1)
        sides = torch.where(u[..., 4:] < self.erasing_p, sides, 0.0)
        starts = (1 - sides) * u[..., 2:4]
        size = pixels.shape[-1]
        centres = (torch.arange(size, dtype=u.dtype) + 0.5) / size
        inside = (centres > starts[..., None]) & (centres < (starts + sides)[..., None])
        erased = (inside[..., 0, None, :] & inside[..., 1, :, None]).to(pixels.device)
        return torch.where(erased[:, :, None], pixels.new_tensor(self.fill)[:, None, None], pixels)

    def _add_noise(self, pixels: Float[Tensor, "b k 3 s s"], strength: float) -> Float[Tensor, "b k 3 s s"]:
        b, k, *shape = pixels.shape
        deviation = strength * self._uniform("noise", b, 1).to(pixels)[..., None, None]
        # A stream for every view: normal numbers come in blocks, so that more of them change the first.
        noise = [
            self.clock.normal(f"{self.stream}/noise/{view}", b, shape, pixels.device) for view in range(k)
        ]
        return pixels + deviation * torch.stack(noise, 1)


def clean_views(
    images: Float[Tensor, "b 3 h w"], size: int, spans: tuple[float, ...] = (1.0, 0.9, 1.1)
) -> Float[Tensor, "b k 3 {size} {size}"]:
    """Plain views for judging a picture: the whole frame, a little closer and a little farther, on white.

    A span is the view's side over the frame's longer side.
    """
    b, _, h, w = images.shape
    frame = torch.tensor([max(h, w) / w, max(h, w) / h], dtype=torch.float64)
    scales = torch.tensor(spans, dtype=torch.float64)[:, None] * frame
    return warp(images, _scaling(scales, torch.zeros_like(scales)).expand(b, -1, -1, -1), size)


def _scaling(scale: Float64[Tensor, "*n 2"], centre: Float64[Tensor, "*n 2"]) -> Float64[Tensor, "*n 3 3"]:
    matrix = torch.diag_embed(F.pad(scale, (0, 1), value=1.0))
    matrix[..., :2, 2] = centre
    return matrix


def _projective_basis(corners: Float64[Tensor, "*n 4 3"]) -> Float64[Tensor, "*n 3 3"]:
    """The homography from the standard projective basis to four points."""
    basis = corners[..., :3, :].mT
    return basis * torch.linalg.solve(basis, corners[..., 3, :])[..., None, :]
