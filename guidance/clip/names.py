"""What a model's name means, found without importing open_clip (seconds) and without the network."""

import importlib
import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from guidance.errors import InputError, suggest

#: The embedded models, each a folder in open_clip's local-dir layout.
MODELS = Path(__file__).parent.parent / "models"

#: OpenAI's names for their own weights, which were trained with QuickGELU.
OPENAI = {
    "RN50": "RN50",
    "RN101": "RN101",
    "RN50x4": "RN50x4",
    "RN50x16": "RN50x16",
    "RN50x64": "RN50x64",
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}


@dataclass(frozen=True)
class Folder:
    """A model on this disk, in open_clip's local-dir layout."""

    path: Path


@dataclass(frozen=True)
class Hub:
    """A model repository on the Hugging Face Hub, as "org/name"."""

    repository: str


@dataclass(frozen=True)
class Pretrained:
    """An architecture of open_clip's with the tag of weights that belong to it."""

    architecture: str
    tag: str


@cache
def _catalogue() -> ModuleType:
    """open_clip's table of weights, as a module that stands by itself.

    Importing open_clip imports torchvision, timm and transformers; its table needs none of them. So the file
    of the table is imported as part of an empty package that only knows where open_clip's files are.
    """
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("open_clip is not installed")
    package = ModuleType("_open_clip_files")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.pretrained")


def known() -> list[str]:
    """Every name that `load` takes, other than folders and repositories: embedded, OpenAI's, open_clip's."""
    embedded = sorted(config.parent.name for config in MODELS.glob("*/open_clip_config.json"))
    pairs = [f"{arch}/{tag}" for arch, tag in _catalogue().list_pretrained() if _fits(arch, tag)]
    return [*embedded, *OPENAI, *pairs]


def resolve(name: str) -> Folder | Hub | Pretrained:
    """Where a model's name leads.

    Raises InputError for a name that leads nowhere (with the nearest ones), and for an architecture whose
    activation is not the one its weights were trained with: such a model works, and is wrong.
    """
    scheme, _, rest = name.partition(":")
    if scheme == "local-dir":
        return Folder(Path(rest))
    if scheme == "hf-hub":
        if rest.count("/") != 1 or not all(rest.split("/")):
            raise InputError(f"a model on the hub is named hf-hub:ORGANISATION/NAME, got {name!r}")
        return Hub(rest)
    if name in OPENAI:
        return Pretrained(f"{OPENAI[name]}-quickgelu", "openai")
    # os.path and not Path, here and below, whose methods raise for a name that is too long.
    if os.path.isfile(MODELS / name / "open_clip_config.json") or name == "tiny":
        return Folder(MODELS / name)
    architecture, _, tag = name.rpartition("/")
    twin = _twin(architecture)
    if _fits(architecture, tag):
        return Pretrained(architecture, tag)
    if _fits(twin, tag):
        raise InputError(f"{name!r}: these weights need another activation (QuickGELU); use {twin}/{tag}")
    tags = [tag for tag in _catalogue().list_pretrained_tags_by_model(name) if _fits(name, tag)]
    if tags:
        choice = " or ".join(f"{name}/{tag}" for tag in tags[:3])
        raise InputError(f"the model {name!r} needs the name of its weights: {choice}")
    raise InputError(f"unknown model {name!r}{suggest(name, known()) or '; use tiny or ViT-B/32'}")


def _twin(architecture: str) -> str:
    """The same architecture with GELU for QuickGELU or the other way round, as open_clip names them."""
    plain = architecture.removesuffix("-quickgelu")
    return plain if plain != architecture else f"{plain}-quickgelu"


def _fits(architecture: str, tag: str) -> bool:
    """Whether there are such weights, and the architecture has the activation that they were trained with."""
    if not _catalogue().is_pretrained_cfg(architecture, tag):
        return False
    trained = _catalogue().get_pretrained_cfg(architecture, tag).get("quick_gelu", False)
    # open_clip's table forgets the activation of roberta-ViT-B-32, which exists in one form only.
    return trained == _quick_gelu(architecture) or not os.path.isfile(_configuration(_twin(architecture)))


def _configuration(architecture: str) -> Path:
    return Path(_catalogue().__file__ or "").parent / "model_configs" / f"{architecture}.json"


@cache
def _quick_gelu(architecture: str) -> bool:
    return json.loads(_configuration(architecture).read_text()).get("quick_gelu", False)
