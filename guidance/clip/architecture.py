"""A model to be trained: its architecture, its first weights, its tokenizer.

Nothing is fetched unless a hub repository is named: `hf-hub:…` as a start, as the text tower of transformers'
or, in a configuration, as `hf_model_name` or `hf_tokenizer_name`; or open_clip's weights as a start.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import open_clip
import timm
import torch
from open_clip import CustomTextCLIP
from open_clip.model import (
    CLIP,
    set_model_preprocess_cfg,
)
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from open_clip.transformer import VisionTransformer

from guidance.clip.bpe import train_tokenizer, write_tokenizer
from guidance.clip.contrastive import SIGLIP_BIAS, SIGLIP_LOG_SCALE
from guidance.clip.inherit import Start, Towers, adopt_tokenizer, inherit_, read_start
from guidance.clip.loading import BROKEN, check_preprocessing, line
from guidance.clip.tokenize import FileTokenizer, Tokenizer
from guidance.clip.towers import TEXT_FOLDER, build, refuse_code
from guidance.errors import InputError, suggest


def new_model(
    architecture: str | Path | None,
    *,
    seed: int = 0,
    start: str | None = None,
    take: Towers = "both",
    image_size: int | None = None,
    text_tower: str | None = None,
    captions: Iterable[str] | None = None,
    vocabulary: int = 16384,
    patch_dropout: float | None = None,
    siglip: bool = False,
) -> tuple[CLIP | CustomTextCLIP, dict[str, Any], Tokenizer]:
    """A model to be trained, what `model_folder.save` writes of its configuration, and its tokenizer.

    `architecture`: a name of open_clip's, or a JSON file in its format, which may describe towers of timm's
    and transformers' and a `TextTower` (`towers`); None is that of `start`. `seed`: of the initial weights.
    `start`: a name that `load` takes, or a training's folder, whose weights of `take` it begins with; others
    are drawn. `image_size`: pixels a side, for which positions are resized. `text_tower`: a text tower of
    transformers' and its tokenizer, a folder or `hf-hub:…`, in place of the architecture's; its weights,
    where it has any. `captions`: train a tokenizer of `vocabulary` tokens on these (`bpe`), instead of the
    architecture's. `patch_dropout`: the share of patches that a training step leaves out (Li et al. 2023).
    `siglip`: with a bias, and the scale and the bias where SigLIP starts them.

    Raises InputError for what is unknown, broken or unreachable, and for what does not fit.
    """
    if take not in get_args(Towers):
        raise InputError(f"take must be both, image or text, got {take!r}")
    if start is None and (take != "both" or architecture is None):
        raise InputError("there are no weights to take without a start, and no architecture; give one")
    started = None if start is None else read_start(start)
    content: dict[str, Any] = {}
    if architecture is not None:
        content = _read(architecture)
    elif started is not None:
        seen = started.model.visual.preprocess_cfg
        content = deepcopy({"model_cfg": started.model_cfg, "preprocess_cfg": seen})
    model_cfg = content["model_cfg"]
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    trunk = str(vision.get("timm_model_name") or "")
    if trunk and not timm.is_model(trunk) and not trunk.startswith("hf-hub:"):
        raise InputError(f"timm has no model {trunk!r}{suggest(trunk, timm.list_models())}")
    if "multimodal_cfg" in model_cfg:
        raise InputError(f"{architecture or start} is a CoCa, which cannot be trained here; take another")
    if image_size is not None:
        vision["image_size"] = image_size
    if patch_dropout is not None:
        if not 0 <= patch_dropout < 1:
            raise InputError(f"patch_dropout must be at least 0 and less than 1, got {patch_dropout:g}")
        if isinstance(vision.get("layers"), list):
            raise InputError(f"{architecture or start} has no patches to drop; leave patch_dropout out")
        vision["patch_dropout"] = patch_dropout
    if siglip:
        model_cfg["init_logit_scale"], model_cfg["init_logit_bias"] = SIGLIP_LOG_SCALE, SIGLIP_BIAS
    keeps_text = started is not None and take != "image"
    if keeps_text and (captions is not None or text_tower is not None):
        raise InputError('a start brings its text tower and tokenizer; with new ones give take="image"')
    if text_tower is not None:
        context = {"context_length": text.get("context_length", 77)}
        text = {"hf_model_name": text_tower, "hf_tokenizer_name": text_tower} | context
        model_cfg["text_cfg"] = text
    what = str(architecture or start)
    with TemporaryDirectory() as temporary, _told(what):
        folder = Path(temporary)
        tokenizer: Tokenizer
        if captions is not None:
            tokenizer = _train(captions, vocabulary, text, folder)
        elif started is not None and keeps_text:
            tokenizer = adopt_tokenizer(started, text, folder)
        else:
            tokenizer = _own(text, what, folder)
        if text.get("tower") == "guidance":
            text["pad_id"] = int(tokenizer([""])[0, -1])
        weights = None
        if text.get("hf_model_name"):
            weights = _describe(text, what, folder / TEXT_FOLDER, started, captions is not None)
        model = build(
            model_cfg,
            seed=seed,
            text_folder=weights or folder / TEXT_FOLDER,
            text_weights=weights is not None,
        )
        if started is not None:
            inherit_(model, model_cfg, started, take, siglip, str(start))
        _try(model, tokenizer)
    if not isinstance(model.visual, VisionTransformer):
        model.visual.to(memory_format=torch.channels_last)  # twice as quick for convolutions on a CPU
    preprocess = merge_preprocess_dict(PreprocessCfg(), content.get("preprocess_cfg") or {})
    preprocess["size"] = model.visual.image_size
    set_model_preprocess_cfg(model, preprocess)
    return model, {"model_cfg": model_cfg, "preprocess_cfg": preprocess}, tokenizer


def _read(architecture: str | Path) -> dict[str, Any]:
    """`model_cfg` and perhaps `preprocess_cfg` of a file or of a name of open_clip's."""
    name = str(architecture).replace("/", "-")
    if name in open_clip.list_models():
        return {"model_cfg": open_clip.get_model_config(name)}
    file = Path(architecture)
    if not os.path.isfile(file):
        known = [*open_clip.list_models()]
        hint = suggest(name, known) or "; a JSON file in open_clip's format will do as well"
        raise InputError(f"open_clip has no architecture {str(architecture)!r}{hint}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if "model_cfg" not in content:
            content = {"model_cfg": content}
        model_cfg = content["model_cfg"]
        for part in (content, model_cfg, model_cfg["vision_cfg"], model_cfg["text_cfg"]):
            if not isinstance(part, dict):
                raise TypeError(f"{part!r} is no object")
        if not isinstance(model_cfg["embed_dim"], int):
            raise TypeError(f"embed_dim is no number: {model_cfg['embed_dim']!r}")
        check_preprocessing(content.get("preprocess_cfg") or {})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is not an open_clip configuration ({line(error)}); correct it") from error
    text = model_cfg["text_cfg"]
    for key in ("hf_model_name", "hf_tokenizer_name"):
        beside = file.parent / str(text.get(key) or "")
        if text.get(key) and os.path.exists(beside):
            text[key] = str(beside)
    return content


def _train(captions: Iterable[str], size: int, text: dict[str, Any], folder: Path) -> FileTokenizer:
    trained = train_tokenizer(captions, size)
    for name in ("tokenizer_kwargs", "tokenizer_mode"):
        text.pop(name, None)
    vocabulary = trained.get_vocab_size()
    text |= {"hf_tokenizer_name": "tokenizer.json", "vocab_size": vocabulary, "pad_id": 0}
    if text.get("pool_type") == "eos":
        text["eos_id"] = vocabulary - 1
    write_tokenizer(folder, trained, text.get("context_length", 77))
    return FileTokenizer(folder, text)


def _own(text: dict[str, Any], what: str, folder: Path) -> Tokenizer:
    """The tokenizer that a configuration names, or OpenAI's."""
    name = text.get("hf_tokenizer_name")
    if not name:
        return SimpleTokenizer(context_length=text.get("context_length", 77))
    if text.get("tokenizer_mode"):
        raise InputError(
            f"{what} needs a tokenizer with special rules of its own; give captions to train one"
        )
    remote = str(name).startswith("hf-hub:")
    if not remote and not os.path.exists(name):
        raise InputError(
            f"{what} needs the tokenizer {name!r} from the internet; "
            "say hf-hub:… in a configuration to fetch it, or give captions to train one"
        )
    source = Path(name) if Path(name).is_dir() or remote else Path(name).parent
    text["hf_tokenizer_name"] = "tokenizer.json"
    if not remote and (source / "tokenizer.json").is_file():
        return FileTokenizer(source, text)
    HFTokenizer(str(name).removeprefix("hf-hub:")).save_pretrained(folder)
    return FileTokenizer(folder, text)


def _describe(
    text: dict[str, Any],
    what: str,
    folder: Path,
    started: Start | None,
    trained: bool,
) -> str | None:
    """Write what describes a text tower of transformers'; returns where its weights are, if there are any.

    With a tokenizer that was `trained`, other numbers mean other tokens: weights are of no use.
    """
    from transformers import AutoConfig

    name = str(text["hf_model_name"])
    source = Path(name)
    if started is not None and name == started.model_cfg["text_cfg"].get("hf_model_name"):
        config, weights = started.model.text.config, None
    elif name.startswith("hf-hub:"):
        weights = name.removeprefix("hf-hub:")
        config = AutoConfig.from_pretrained(weights, trust_remote_code=False)
    elif os.path.exists(source):
        refuse_code(source)
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        found = source.is_dir() and any(file.suffix in (".safetensors", ".bin") for file in source.iterdir())
        weights = name if found else None
    else:
        raise InputError(
            f"{what} needs the text tower {name!r} from the internet; "
            f"give text_tower=hf-hub:{name} to fetch it, or a folder or a configuration on this disk"
        )
    if trained:
        size = text["vocab_size"]
        config.vocab_size, config.pad_token_id, config.bos_token_id, config.eos_token_id = (
            size,
            0,
            1,
            size - 1,
        )
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json_string(), encoding="utf-8")
    text |= {"hf_model_name": TEXT_FOLDER, "hf_model_pretrained": False}
    return None if trained or started is not None else weights


@torch.no_grad()
def _try(model: CLIP | CustomTextCLIP, tokenizer: Tokenizer) -> None:
    """Raise what a first step would: for too few tokens or positions, or an image size that does not fit."""
    tokens = tokenizer(["a " * 2 * tokenizer.context_length])
    highest = int(tokens.max())
    if highest >= model.vocab_size:
        raise InputError(f"vocab_size must be more than the token {highest}, got {model.vocab_size}")
    model.eval()
    size = model.visual.image_size
    model.encode_text(tokens)
    model.encode_image(torch.zeros(1, 3, *(size if isinstance(size, tuple | list) else (size, size))))
    model.train()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What PyTorch, open_clip, timm and transformers raise for a configuration that fits nothing, told."""
    try:
        yield
    except InputError:
        raise
    except BROKEN as error:
        raise InputError(
            f"the model {what!r} cannot be made: {line(error)}; correct its configuration"
        ) from error
