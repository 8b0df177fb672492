"""A model by name, from this disk or the internet, and every way in which that fails told in one line."""

import json
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, get_args

import torch
from torch import nn

from guidance.clip.encoder import Clip, Precision
from guidance.clip.names import Folder, Hub, Pretrained, resolve
from guidance.clip.tokenize import FileTokenizer, Tokenizer, read_words
from guidance.devices import device as find_device
from guidance.errors import InputError


def load(name: str = "tiny", *, device: str | torch.device = "cpu", precision: Precision = "float32") -> Clip:
    """A frozen CLIP model by name.

    `name`: "tiny", the embedded one; "ViT-B-32/laion2b_s34b_b79k", an architecture and weights of open_clip;
    "ViT-B/32" and OpenAI's other names; "hf-hub:org/name"; "local-dir:path", a folder in open_clip's layout,
    or in transformers' that holds a CLIPModel. "tiny" and folders never touch the network. Preprocessing and
    activation are the checkpoint's.
    `device`: "auto" is the first CUDA GPU, or the CPU. `precision`: of the image tower's products; embeddings
    are float32 in both.

    Raises InputError for an unknown name or device, for weights that are missing, broken or of other shapes,
    and for a download that fails.
    """
    if precision not in get_args(Precision):
        raise InputError(f"precision must be float32 or bfloat16, got {precision!r}")
    where = find_device(str(device))
    source = resolve(name)
    if isinstance(source, Folder) and _is_of_transformers(source.path):
        from guidance.clip.interop import from_transformers

        return from_transformers(source.path, device=where, precision=precision)
    config = _read_config(source) if isinstance(source, Folder) else _download(source, name)
    model, tokenizer = _build(source, config, name)
    return Clip(
        model,
        tokenizer,
        name=name,
        embed_dim=config["embed_dim"],
        device=where,
        precision=precision,
        vocabulary=read_words(source.path) if isinstance(source, Folder) else None,
    )


def _is_of_transformers(folder: Path) -> bool:
    return not os.path.isfile(folder / "open_clip_config.json") and os.path.isfile(folder / "config.json")


def _read_config(folder: Folder) -> dict[str, Any]:
    """The `model_cfg` of a model folder that is complete by the look of it."""
    path = folder.path
    if not os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        raise InputError(f"there is no model folder {path}; check the path")
    file = path / "open_clip_config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        config: dict[str, Any] = content["model_cfg"]
        text, vision = config["text_cfg"], config["vision_cfg"]
        remotes = [text.get("hf_model_name"), vision.get("timm_model_name")]
        _check_preprocessing(content.get("preprocess_cfg") or {})
    except FileNotFoundError as error:
        raise InputError(f"the model folder {path} has no open_clip_config.json; copy it there") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is not an open_clip configuration ({_line(error)}); copy it there again"
        ) from error
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in path.iterdir()):
        raise InputError(f"the model folder {path} has no weights; copy open_clip_model.safetensors there")
    for remote in remotes:
        # A text tower of transformers' is described in a repository of its own; so are some towers of timm's.
        if remote and "/" in str(remote) and not os.path.isdir(remote):
            raise InputError(
                f"the model folder {path} needs {remote!r} from the internet; load it as hf-hub:… instead"
            )
    return config


def _check_preprocessing(preprocess: dict[str, Any]) -> None:
    """Raises ValueError for a `preprocess_cfg` that open_clip would take as it is, and fail or err later."""
    for name in ("mean", "std"):
        numbers = preprocess.get(name) or [0.5] * 3
        if len(numbers) != 3 or not all(isinstance(number, int | float) for number in numbers):
            raise ValueError(f"{name} is not three numbers: {numbers!r}")
    sides = preprocess.get("size") or 1
    for side in sides if isinstance(sides, list) else [sides]:
        if not isinstance(side, int) or side < 1:
            raise ValueError(f"size is not in pixels: {sides!r}")
    if not isinstance(preprocess.get("fill_color") or 0, int | float):
        raise ValueError(f"fill_color is not a number: {preprocess['fill_color']!r}")
    for name, known in (
        ("interpolation", ("bicubic", "bilinear")),
        ("resize_mode", ("shortest", "longest", "squash")),
    ):
        if (preprocess.get(name) or known[0]) not in known:
            raise ValueError(f"{name} is not one of {', '.join(known)}: {preprocess[name]!r}")


def _download(source: Hub | Pretrained, name: str) -> dict[str, Any]:
    """Fetch a model's files into open_clip's cache, unless they are there; its `model_cfg`."""
    import open_clip
    from open_clip.pretrained import download_pretrained_from_hf

    try:
        if isinstance(source, Hub):
            download_pretrained_from_hf(source.repository)
            return open_clip.get_model_config(f"hf-hub:{source.repository}")
        open_clip.download_pretrained(open_clip.get_pretrained_cfg(source.architecture, source.tag))
        return open_clip.get_model_config(source.architecture)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"could not download the model {name!r} ({_line(error)}); "
            "check the name and the internet connection, or use tiny, which needs none"
        ) from error


def _build(
    source: Folder | Hub | Pretrained, config: dict[str, Any], name: str
) -> tuple[nn.Module, Tokenizer]:

    import open_clip
    from safetensors import SafetensorError

    match source:
        case Folder(path):
            architecture, tag = f"local-dir:{path}", None
        case Hub(repository):
            architecture, tag = f"hf-hub:{repository}", None
        case Pretrained(architecture, tag):
            pass
    try:
        with torch.random.fork_rng(
            devices=[]
        ):  # initial weights are drawn before the checkpoint replaces them
            model = open_clip.create_model(architecture, tag, require_pretrained=True, weights_only=True)
        if isinstance(source, Folder) and config["text_cfg"].get("hf_tokenizer_name"):
            return model, FileTokenizer(source.path, config["text_cfg"])
        return model, open_clip.get_tokenizer(architecture)
    except InputError:
        raise
    # Broken weights, other shapes, a configuration that names no model: as PyTorch and open_clip say it.
    except (
        OSError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        SafetensorError,
        UnpicklingError,
        EOFError,
    ) as error:
        raise InputError(
            f"the model {name!r} cannot be loaded: {_line(error)}; copy or download it again"
        ) from error


def _line(error: Exception) -> str:
    """An error in one line of bearable length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 200 else text[:200] + '…'}"
