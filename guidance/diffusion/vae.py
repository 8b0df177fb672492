"""Autoencoders of diffusers, frozen and in the image convention of this package."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

from guidance.clip.names import MODELS
from guidance.clock import Clock
from guidance.devices import device as find_device
from guidance.diffusion.shards import check_shards
from guidance.errors import InputError

Precision = Literal["float32", "bfloat16"]

#: Larger networks are refused; Stable Diffusion's autoencoders have 84 million weights.
MAX_NUMBERS = 500_000_000

#: Stable Diffusion 1's autoencoder, which a file of its weights does not tell.
_SD1 = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}


class Vae:
    """A frozen `AutoencoderKL` or `VQModel` of diffusers: pictures to latents and back, both differentiable.

    A latent has `channels` numbers for every `factor` × `factor` pixels. An AutoencoderKL's are shifted and
    scaled as a diffusion model sees them, about unit variance. A VQModel's are those that are looked up in
    its codebook, unscaled; `bounds` are the least and the greatest number of each channel there (VQGAN-CLIP's
    range), and None for an AutoencoderKL. It is no `nn.Module`, so that what holds its methods does not
    register its weights.
    """

    def __init__(self, model: Any, name: str) -> None:
        """`model`: of diffusers, used as it is where it is; its weights get no gradient from here on.

        Raises InputError for a shift or a scale that no latents can have.
        """
        self._model = model.eval().requires_grad_(False)
        self.name = name
        config = model.config
        self.factor: int = 2 ** (len(config.block_out_channels) - 1)
        self.quantised = type(model).__name__ == "VQModel"
        self.channels: int = (config.vq_embed_dim if self.quantised else None) or config.latent_channels
        self.bounds: tuple[Tensor, Tensor] | None = None
        self._shift, self._scale = torch.zeros(()), torch.ones(())
        if self.quantised:
            codes = self._codes.float()
            self.bounds = codes.amin(0)[:, None, None], codes.amax(0)[:, None, None]
        else:
            # SDXL's pipelines have a mean and a deviation for each channel, SD 3's a shift for all.
            mean, std = config.latents_mean or [config.shift_factor or 0.0], config.latents_std or [1.0]
            self._shift = torch.tensor(mean, device=model.device).view(-1, 1, 1)
            self._scale = config.scaling_factor / torch.tensor(std, device=model.device).view(-1, 1, 1)
            sizes = {self._shift.numel(), self._scale.numel()}
            numbers = torch.cat([self._shift.flatten(), self._scale.flatten(), 1 / self._scale.flatten()])
            if not sizes <= {1, self.channels} or not numbers.isfinite().all():
                raise InputError(
                    f"the model {name!r} cannot scale its {self.channels} channels: scaling_factor "
                    f"{config.scaling_factor}, latents_mean {mean}, latents_std {std}; check its config.json"
                )

    def encode(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c gh gw"]:
        """The latents of images in [0, 1], float32; the mean of an AutoencoderKL's distribution.

        Raises InputError when a side is no multiple of `factor`.
        """
        if images.shape[-2] % self.factor or images.shape[-1] % self.factor:
            height, width = images.shape[-2:]
            raise InputError(f"sides must be multiples of {self.factor} pixels, got {height}×{width}")
        seen = self._model.encode((2 * images - 1).to(self._model.dtype))
        if self.quantised:
            return seen.latents.float()
        return (seen.latent_dist.mean.float() - self._shift) * self._scale

    def decode(self, latents: Float[Tensor, "n c gh gw"]) -> Float[Tensor, "n 3 h w"]:
        """The images of latents, float32 in [0, 1].

        A VQModel's latents go to the nearest codes, and the gradient passes as if they had not (van den Oord
        et al. 2017). Pixels out of range are clamped; the gradient that would bring them back passes
        (VQGAN-CLIP, Crowson et al. 2022): without it they would stay there for ever.
        """
        wanted = latents / self._scale + self._shift
        decoded = self._model.decode(wanted.to(self._model.dtype)).sample.float()
        return _Clamp.apply(decoded / 2 + 0.5)

    def noise(self, clock: Clock, b: int, size: tuple[int, int]) -> Float[Tensor, "b c gh gw"]:
        """Random latents of pictures of (h, w) pixels, rounded up to the next multiples of `factor`.

        Standard normal numbers, or random codes of a VQModel, as VQGAN-CLIP begins with.
        """
        grid = [-(-side // self.factor) for side in size]
        if not self.quantised:
            return clock.normal("latents", b, (self.channels, *grid))
        picks = (clock.uniform("latents", b, grid) * len(self._codes)).long()
        return self._look_up(picks.to(self._codes.device))

    @property
    def _codes(self) -> Float[Tensor, "n c"]:
        return self._model.quantize.embedding.weight

    def _look_up(self, picks: Int[Tensor, "b gh gw"]) -> Float[Tensor, "b c gh gw"]:
        return self._codes[picks].movedim(-1, 1).float()


class _Clamp(Function):
    """Clamps to [0, 1]; passes the gradient of what is in range, and any that leads back into it."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        inside = images.clamp(0, 1)
        ctx.save_for_backward(images - inside)
        return inside

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (beyond,) = ctx.saved_tensors
        return gradient * (gradient * beyond >= 0)


def load_vae(
    name: str = "tiny",
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
    slicing: bool = False,
    tiling: bool = False,
) -> Vae:
    """A frozen autoencoder by name, in diffusers' formats.

    `name`: "tiny", the embedded one; "local-dir:path", a folder that diffusers wrote, of an AutoencoderKL, of
    a VQModel, or of a pipeline with one in `vae` or `vqvae`; "hf-hub:org/name" or
    "hf-hub:org/name/subfolder", a repository; the path of a single .safetensors file, as diffusers
    or Stable Diffusion's authors write it (with its config.json beside it; without one it is taken for Stable
    Diffusion 1's). Only "hf-hub:" touches the network. `precision`: of the weights and the
    arithmetic; images and latents are float32 in both. `slicing` takes one picture at a time, `tiling` a
    piece of a picture, for less memory.

    Raises InputError for an unknown name, for weights that are missing, broken, of another shape or no
    safetensors, for tiles or slices of a VQModel, and for a download that fails.
    """
    if precision not in get_args(Precision):
        raise InputError(f"precision must be float32 or bfloat16, got {precision!r}")
    where = find_device(str(device))
    model = read_model(name)
    if slicing or tiling:
        if type(model).__name__ == "VQModel":
            raise InputError(f"the model {name!r} is a VQModel, which has no slicing or tiling; leave it out")
        model.use_slicing, model.use_tiling = slicing, tiling
    if precision == "bfloat16":
        model = model.bfloat16()  # `to` would warn of modules that no autoencoder has
    with told_in_one_line(name):
        return Vae(model.to(where), name)


def read_model(name: str) -> Any:
    """The diffusers model behind a name of `load_vae`, float32 on the CPU, ready to be trained on."""
    scheme, _, rest = name.partition(":")
    # Whatever is not in the checkpoint is an error here, but initialised first.
    with torch.random.fork_rng(devices=[]), told_in_one_line(name):
        if name == "tiny":
            return _read_folder(MODELS / "tiny_vae")
        if name.endswith(".safetensors"):
            return _read_file(Path(name))
        if scheme == "local-dir":
            return _read_folder(Path(rest))
        if scheme == "hf-hub":
            return _read_hub(rest)
    raise InputError(
        f"unknown model {name!r}; use tiny, local-dir:FOLDER, hf-hub:ORG/NAME or a .safetensors file"
    )


@contextmanager
def told_in_one_line(name: str) -> Iterator[None]:
    """Make InputErrors of what broken weights, other shapes and impossible configurations raise."""
    from pickle import UnpicklingError

    from safetensors import SafetensorError

    mistakes = (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError)
    try:
        yield
    except InputError:
        raise
    except (*mistakes, ImportError, UnpicklingError, AttributeError, ArithmeticError, MemoryError) as error:
        text = " ".join(str(error).split())
        raise InputError(
            f"the model {name!r} cannot be loaded ({type(error).__name__}: {text[:200]}); "
            "check the name and the files"
        ) from error


def _read_folder(folder: Path) -> Any:
    # os.path and not Path, whose methods raise for a name that is too long.
    found = [f for f in (folder, folder / "vae", folder / "vqvae") if os.path.isfile(f / "config.json")]
    if not found:
        raise InputError(f"there is no model in {folder}: config.json is missing; check the path")
    return _read_pretrained(str(found[0]), None, local_files_only=True)


def _read_hub(rest: str) -> Any:
    parts = rest.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise InputError(f"a model on the hub is hf-hub:ORG/NAME or hf-hub:ORG/NAME/SUBFOLDER, got {rest!r}")
    return _read_pretrained("/".join(parts[:2]), parts[2] if parts[2:] else None, local_files_only=False)


def _read_pretrained(place: str, subfolder: str | None, *, local_files_only: bool) -> Any:
    from diffusers import AutoencoderKL

    config = AutoencoderKL.load_config(place, subfolder=subfolder, local_files_only=local_files_only)
    kind = _kind(config, place)
    check_shards(place, subfolder, "diffusion_pytorch_model", local=local_files_only)
    model, report = kind.from_pretrained(
        place,
        subfolder=subfolder,
        use_safetensors=True,
        local_files_only=local_files_only,
        low_cpu_mem_usage=False,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        raise InputError(f"{place} lacks the weights {report['missing_keys'][0]}, …; copy it there again")
    return model


def _read_file(path: Path) -> Any:
    from safetensors.torch import load_file

    tensors, beside = load_file(path), path.with_name("config.json")
    config = json.loads(beside.read_text(encoding="utf-8")) if os.path.isfile(beside) else _SD1
    return make_model(config, tensors, str(path))


def make_model(config: dict[str, Any], tensors: dict[str, Tensor], place: str) -> Any:
    """A diffusers model of a configuration and weights, named as by diffusers or Stable Diffusion's authors.

    The authors' may have those of other networks beside them. Raises InputError for another kind of model,
    and whatever PyTorch and diffusers raise for weights that are missing or of other shapes.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    model = _kind(config, place).from_config(config)
    if tensors.keys() != model.state_dict().keys():
        tensors = convert_ldm_vae_checkpoint(tensors, model.config)
    model.load_state_dict(tensors)
    return model


def _kind(config: dict[str, Any], place: str) -> Any:
    """diffusers' class that a configuration is of; raises InputError for none, and for one that is too large.

    The whole network is made before its weights are looked at, so it is counted on the meta device first.
    """
    from diffusers import AutoencoderKL, VQModel

    kinds = {kind.__name__: kind for kind in (AutoencoderKL, VQModel)}
    kind = kinds.get(config.get("_class_name"))
    if kind is None:
        raise InputError(f"{place} is a {config.get('_class_name')}; give an AutoencoderKL or a VQModel")
    if len(config.get("block_out_channels", ())) > 8 or config.get("layers_per_block", 1) > 16:
        raise InputError(f"{place} has more than 8 levels or 16 layers a level; check its config.json")
    with torch.device("meta"):
        numbers = sum(parameter.numel() for parameter in kind.from_config(config).parameters())
    if numbers > MAX_NUMBERS:
        raise InputError(f"{place} has {numbers / 1e9:.1f} billion weights; check its config.json")
    return kind
