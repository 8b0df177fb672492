"""Shape checks over the whole package, two threads, and small open_clip models in local-dir layout."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Every jaxtyping annotation in the package is checked while the tests run.
# The numeric tower: where a float is wanted an int will do, as Python's type checkers say.
install_import_hook("guidance", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

# More threads than cores make small kernels slower, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "2")
torch.set_num_threads(2)

SPECIAL = ["<pad>", "<start>", "<end>"]
CAPTIONS = [
    "a red heart", "a fox in the snow", "the blue whale", "smiling face with sunglasses", "ein rotes Herz",
    "un coeur rouge", "un corazón rojo", "czerwone serce", "красное сердце", "червоне серце", "قلب أحمر",
    "לב אדום", "लाल दिल", "หัวใจสีแดง", "红心", "赤いハート", "빨간 하트", "trái tim đỏ", "kırmızı kalp",
    "κόκκινη καρδιά", "punainen sydän", "rött hjärta", "červené srdce", "hati merah", "cuore rosso",
]  # fmt: skip

VIT = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
TEXT = {"context_length": 16, "width": 64, "heads": 2, "layers": 2}


def write_tokenizer(folder: Path) -> int:
    """A byte-level BPE tokenizer trained on a few captions, in Hugging Face's files; returns its size."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<start>",
        "eos_token": "<end>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer.get_vocab_size()


def write_model(folder: Path, vision: dict, *, quick_gelu: bool = False) -> Path:
    """A CLIP with random float16 weights in open_clip's local-dir layout, with a tokenizer and words."""
    import open_clip
    from safetensors.torch import save_file

    from guidance.clip.tokenize import words

    folder.mkdir(parents=True, exist_ok=True)
    text = TEXT | {
        "vocab_size": write_tokenizer(folder),
        "hf_tokenizer_name": "tokenizer",
        "pool_type": "eos",
        "eos_id": 2,
    }
    config = {"embed_dim": 48, "vision_cfg": vision, "text_cfg": text, "quick_gelu": quick_gelu}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**config)
        with torch.no_grad():
            for parameter in model.parameters():  # biases and gains that are zero or one would hide mistakes
                parameter.add_(0.02 * torch.randn_like(parameter))
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    vocabulary = {word for caption in CAPTIONS for word in words(caption)}
    (folder / "words.txt.gz").write_bytes(gzip.compress("\n".join(sorted(vocabulary)).encode()))
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`model_folder("vit")`: a small model on disk, made once a session; copy it to change it."""
    kinds = {
        "vit": {"vision": VIT},
        "vit-quickgelu": {"vision": VIT, "quick_gelu": True},
        "vit-layerscale": {"vision": VIT | {"ls_init_value": 0.3, "pool_type": "avg"}},
        "resnet": {"vision": {"image_size": 64, "width": 8, "layers": [1, 1, 1, 1], "patch_size": None}},
        "timm": {
            "vision": {
                "timm_model_name": "regnety_002",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "image_size": 64,
            }
        },
    }
    root = tmp_path_factory.mktemp("models")

    def folder(kind: str) -> Path:
        if not (root / kind).exists():
            write_model(root / kind, **kinds[kind])
        return root / kind

    return folder


@pytest.fixture
def kill_at_second_save(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and the next training is killed when it has saved its state for the second time."""
    from guidance import checkpoint

    save = checkpoint.save
    saves: list[int] = []

    def die(*arguments: object) -> None:
        save(*arguments)
        saves.append(0)
        if len(saves) == 2:
            raise KeyboardInterrupt

    return lambda: monkeypatch.setattr("guidance.checkpoint.save", die)
