"""StyleGAN2 generators from files: rosinality's names and NVIDIA's, and our own."""

import argparse
import pickle
import re
from math import log2
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from guidance.clip.names import MODELS
from guidance.clock import Clock
from guidance.errors import InputError
from guidance.generator.stylegan2 import Generator
from guidance.media import replacing

#: Larger files are refused; a whole checkpoint of a training at 1024 pixels has 0.7 GB.
MAX_BYTES = 4 * 2**30


def load_generator(source: str | Path = "tiny", *, device: str | torch.device = "cpu") -> Generator:
    """A frozen StyleGAN2 generator: "tiny", the embedded one, or a file's, of any size and width.

    The file holds the weights under rosinality's names, by themselves or as the `g_ema` of a checkpoint
    (.pt, .pth; read without running code), or is a safetensors file with rosinality's or NVIDIA's names
    (stylegan2-ada-pytorch, stylegan3's StyleGAN2). Without a mean w it is that of 4096 random latents.
    Raises InputError for files that are missing, broken, of other networks or NVIDIA's pickles.
    """
    path = MODELS / "tiny_generator" / "generator.safetensors" if source == "tiny" else Path(source)
    weights = _read(path)
    try:
        if "synthesis.b4.const" in weights:
            weights = _from_nvidia(weights, path)
        blocks = sum(
            name.startswith("to_rgbs.") and name.endswith(".bias") for name in weights if name.count(".") == 2
        )
        channels = [weights["conv1.conv.weight"].shape[1]]
        channels += [weights[f"convs.{2 * i}.conv.weight"].shape[1] for i in range(blocks)]
        style_dim = weights["conv1.conv.modulation.weight"].shape[1]
        mapping_layers = sum(bool(re.fullmatch(r"style\.\d+\.weight", name)) for name in weights)
        with torch.device("meta"):
            generator = Generator(channels, style_dim, mapping_layers)
        missing = {"latent_avg": torch.full((style_dim,), torch.nan)}
        generator.load_state_dict(missing | {n: t.float() for n, t in weights.items()}, assign=True)
    except InputError:
        raise
    except (LookupError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} is no StyleGAN2 generator under rosinality's or NVIDIA's names ({reason}); give another"
        ) from error
    if generator.latent_avg.isnan().all():
        with torch.no_grad():
            z = Clock().normal("latent_avg", 1, (4096, style_dim))[0]
            generator.latent_avg.copy_(generator.mapping(z).mean(0))
    return generator.eval().requires_grad_(False).to(device)


def save_generator(path: Path, generator: Generator) -> None:
    """Write a generator as a safetensors file in half precision, atomically, for `load_generator`."""
    weights = {
        name: tensor.detach().cpu().half().contiguous() for name, tensor in generator.state_dict().items()
    }
    with replacing(path) as temporary:
        save_file(weights, temporary)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors by name: a file's own, or of a checkpoint its `g_ema` and `latent_avg`."""
    if not path.is_file():
        raise InputError(f"there is no generator at {path}; give a file")
    if path.suffix == ".pkl":
        raise InputError(
            f"{path} is a pickle, which may run code when opened; with NVIDIA's code save "
            "G_ema.state_dict() by safetensors.torch.save_file, and give that file"
        )
    if path.stat().st_size > MAX_BYTES:
        raise InputError(
            f"{path} has {path.stat().st_size / 2**30:.1f} GB; give a file of the generator only"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # The arguments of rosinality's training lie in its checkpoints: plain data, which is never used.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"cannot read {path} ({reason}); give a .safetensors, .pt or .pth file") from error
    if isinstance(content, dict) and isinstance(content.get("g_ema"), dict):
        mean = {"latent_avg": content["latent_avg"]} if "latent_avg" in content else {}
        content = content["g_ema"] | mean
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise InputError(f"{path} has no weights by name and no g_ema; give a checkpoint of StyleGAN2")
    return content


def _from_nvidia(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """NVIDIA's names to rosinality's; the numbers are the same but for the filter's gain."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if match := re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", name):
            found[f"style.{int(match[1]) + 1}.{match[2]}"] = tensor
        elif name == "mapping.w_avg":
            found["latent_avg"] = tensor
        elif name == "synthesis.b4.const":
            found["input.input"] = tensor[None]
        elif match := re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb)\.(.+)", name):
            found |= _from_nvidia_layer(int(log2(int(match[1]))) - 3, match[2], match[3], tensor)
        elif not re.fullmatch(r"synthesis\.b\d+\.resample_filter", name):
            raise InputError(
                f"{path} has {name}, which a StyleGAN2 without classes has not; give one without classes"
            )
    return found


def _from_nvidia_layer(block: int, layer: str, part: str, tensor: Tensor) -> dict[str, Tensor]:
    """One tensor of a layer; `block` is -1 at 4 pixels, 0 at 8, ..."""
    index = 2 * block + (layer == "conv1")
    if layer == "torgb":
        place = "to_rgb1" if block < 0 else f"to_rgbs.{block}"
    else:
        place = "conv1" if block < 0 else f"convs.{index}"
    match part:
        case "weight":
            return {f"{place}.conv.weight": tensor[None]}
        case "affine.weight" | "affine.bias":
            return {f"{place}.conv.modulation.{part.removeprefix('affine.')}": tensor}
        case "bias":
            return (
                {f"{place}.bias": tensor.view(1, 3, 1, 1)}
                if layer == "torgb"
                else {f"{place}.activate.bias": tensor}
            )
        case "noise_strength":
            return {f"{place}.noise.weight": tensor.view(1)}
        case "noise_const":
            return {f"noises.noise_{index + 1}": tensor[None, None]}
        case "resample_filter" if layer == "conv0":
            # Of a layer that doubles the size; the file has no filter for the pictures, which is the same.
            kernel = 4 * tensor
            return {f"{place}.conv.blur.kernel": kernel, f"to_rgbs.{block}.upsample.kernel": kernel.clone()}
        case _:
            return {}
