"""Models out of open_clip's configurations, and out of two kinds of text tower that it cannot write down.

A `text_cfg` with `"tower": "guidance"` is a `TextTower`; its other entries are that class's arguments. A
`text_cfg` with `hf_model_name` may name a folder inside the model's own, which then describes itself.
"""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from open_clip import CoCa, CustomTextCLIP
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel

from guidance.clip.text_tower import TextTower
from guidance.errors import InputError

#: The folder inside a model's folder that describes its text tower of transformers'.
TEXT_FOLDER = "text_tower"

# Entries of a text_cfg that are about its tokenizer.
_OF_TOKENIZERS = ("hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode")


def build(
    model_cfg: dict[str, Any],
    *,
    seed: int = 0,
    text_folder: Path | str | None = None,
    text_weights: bool = False,
) -> CLIP | CustomTextCLIP:
    """A model with initial weights, drawn from `seed` alone, on the CPU.

    `text_folder`: what describes a text tower of transformers', instead of `hf_model_name`; `text_weights`:
    whether it begins with that folder's weights. Raises InputError for a tower that brings code of its own,
    and one of `loading.BROKEN` for a configuration that makes no sense.
    """
    config = deepcopy(model_cfg)
    vision, text = config["vision_cfg"], config["text_cfg"]
    custom = config.pop("custom_text", False) or bool(text.get("hf_model_name"))
    if vision.get("timm_model_name"):
        vision["timm_model_pretrained"] = False
    if text.get("hf_model_name"):
        text["hf_model_name"] = str(text_folder or text["hf_model_name"])
        text["hf_model_pretrained"] = text_weights
        refuse_code(Path(text["hf_model_name"]))
    with torch.random.fork_rng(devices=[]):  # initial weights come from the global generator
        torch.default_generator.manual_seed(seed)
        if text.get("tower") == "guidance":
            model = _with_text_tower(config)
        elif "multimodal_cfg" in config:
            model = CoCa(**config)
        else:
            model = (CustomTextCLIP if custom else CLIP)(**config)
    if isinstance(model.visual, TimmModel) and "image_size" in vision:
        # open_clip makes timm's transformers for their default size, whatever the configuration says.
        model.visual.set_input_size(vision["image_size"])
    return model


def _with_text_tower(config: dict[str, Any]) -> CustomTextCLIP:
    own = {name: value for name, value in config["text_cfg"].items() if name not in _OF_TOKENIZERS}
    del own["tower"]
    text = TextTower(embed_dim=config["embed_dim"], **own)
    # open_clip makes a text tower of its own in any case: the least there is.
    least = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}
    model = CustomTextCLIP(**config | {"text_cfg": least})
    model.text = text
    model.context_length, model.vocab_size = text.context_length, text.vocab_size
    return model


def refuse_code(description: Path) -> None:
    """Raise InputError for a configuration of transformers' that names code to be fetched and run."""
    file = description / "config.json" if description.is_dir() else description
    if file.is_file() and "auto_map" in json.loads(file.read_text(encoding="utf-8")):
        raise InputError(f"{file} asks for code of its own to be run; take a model that transformers knows")


def checkpoint_activations(model: CLIP | CustomTextCLIP) -> None:
    """Keep of a training step only what goes in between layers, and compute the rest again for the gradient.

    Raises InputError for an image tower that cannot: a ModifiedResNet and some of timm's.
    """
    if isinstance(model.visual, ModifiedResNet):
        raise InputError("a ModifiedResNet cannot checkpoint activations; leave that out, or cache gradients")
    if isinstance(model.visual, TimmModel):
        try:
            model.visual.trunk.set_grad_checkpointing(True)
        except AssertionError as error:
            raise InputError(
                f"the image tower cannot checkpoint activations ({error}); leave it out"
            ) from error
    else:
        model.visual.set_grad_checkpointing(True)
    if isinstance(model, CLIP):
        model.transformer.grad_checkpointing = True
    elif isinstance(model.text, HFTextEncoder):
        options = {"use_reentrant": False}
        model.text.transformer.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    else:
        model.text.set_grad_checkpointing(True)
