"""A model by name, from this disk or the internet, and every way in which that fails told in one line."""

import json
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from torch import nn

from guidance.clip.encoder import Clip, Precision
from guidance.clip.names import Folder, Hub, Pretrained, resolve
from guidance.clip.tokenize import FileTokenizer, Tokenizer, read_words
from guidance.devices import device as find_device
from guidance.errors import InputError

#: What broken weights, other shapes and a configuration that makes no sense raise in PyTorch and open_clip.
BROKEN = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    SafetensorError,
    UnpicklingError,
    EOFError,
)


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
    model, config, tokenizer = read(name)
    return Clip(
        model,
        tokenizer,
        name=name,
        embed_dim=config["embed_dim"],
        device=where,
        precision=precision,
        vocabulary=read_words(source.path) if isinstance(source, Folder) else None,
    )


def read(name: str) -> tuple[nn.Module, dict[str, Any], Tokenizer]:
    """open_clip's model of a name that `load` takes, its `model_cfg` and its tokenizer.

    Not for transformers' folders. Raises InputError as `load`.
    """
    source = resolve(name)
    config = _read_config(source) if isinstance(source, Folder) else _download(source, name)
    model, tokenizer = _build(source, config, name)
    return model, config, tokenizer


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
        tower, trunk = config["text_cfg"].get("hf_model_name"), config["vision_cfg"].get("timm_model_name")
        check_preprocessing(content.get("preprocess_cfg") or {})
    except FileNotFoundError as error:
        raise InputError(f"the model folder {path} has no open_clip_config.json; copy it there") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is not an open_clip configuration ({line(error)}); copy it there again"
        ) from error
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in path.iterdir()):
        raise InputError(f"the model folder {path} has no weights; copy open_clip_model.safetensors there")
    # A text tower of transformers' is described in a folder of its own; some of timm's towers are on the hub.
    missing = [tower] if tower and not text_folder(path, tower).is_dir() else []
    for remote in missing + [trunk] * (trunk is not None and "/" in str(trunk)):
        raise InputError(
            f"the model folder {path} needs {remote!r} from the internet; load it as hf-hub:… instead"
        )
    return config


def text_folder(folder: Path, name: str) -> Path:
    """What describes a text tower of transformers': a folder inside the model's, or another on this disk."""
    inside = folder / str(name)
    return inside if os.path.exists(inside) else Path(str(name))


def check_preprocessing(preprocess: dict[str, Any]) -> None:
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
            f"could not download the model {name!r} ({line(error)}); "
            "check the name and the internet connection, or use tiny, which needs none"
        ) from error


def _build(
    source: Folder | Hub | Pretrained, config: dict[str, Any], name: str
) -> tuple[nn.Module, Tokenizer]:

    import open_clip

    match source:
        case Folder(path):
            architecture = f"local-dir:{path}"
        case Hub(repository):
            architecture = f"hf-hub:{repository}"
        case Pretrained(architecture, _):
            pass
    try:
        if isinstance(source, Folder):
            model = _build_from(source.path, config)
        else:
            tag = source.tag if isinstance(source, Pretrained) else None
            # Initial weights are drawn before the checkpoint replaces them.
            with torch.random.fork_rng(devices=[]):
                model = open_clip.create_model(architecture, tag, require_pretrained=True, weights_only=True)
        if isinstance(source, Folder) and config["text_cfg"].get("hf_tokenizer_name"):
            return model, FileTokenizer(source.path, config["text_cfg"])
        return model, open_clip.get_tokenizer(architecture)
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(
            f"the model {name!r} cannot be loaded: {line(error)}; copy or download it again"
        ) from error


def _build_from(folder: Path, config: dict[str, Any]) -> nn.Module:
    """The model in a folder: as open_clip would load it, and what only `towers.build` knows."""
    from open_clip.factory import _find_checkpoint_in_dir, load_checkpoint
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    from guidance.clip.towers import build

    tower = config["text_cfg"].get("hf_model_name")
    model = build(config, text_folder=text_folder(folder, tower) if tower else None)
    load_checkpoint(model, _find_checkpoint_in_dir(folder), weights_only=True)
    content = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    preprocess = merge_preprocess_dict(PreprocessCfg(), content.get("preprocess_cfg") or {})
    set_model_preprocess_cfg(model, preprocess | {"size": model.visual.image_size})
    return model


def line(error: Exception) -> str:
    """An error in one line of bearable length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 200 else text[:200] + '…'}"
