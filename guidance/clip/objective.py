"""What CLIP training minimises: a contrastive loss, and what is added to it, of one model.

`Objective` is what DDP or FSDP wraps. Its forward pass makes of each pair, on its own, everything that the
losses compare, so that `caching.cached_backward` takes it as it is; `Objective.loss` has no weights of its
own and compares the rows of all micro-batches and all ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, final, get_args

import torch
from jaxtyping import Bool, Float, Int
from open_clip import CustomTextCLIP
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn import functional

from guidance.clip.contrastive import combine, exact, filip, info_nce, siglip
from guidance.clip.self_supervised import (
    mask_tokens,
    predictor,
    projector,
    simclr,
    similarity_regularization,
    simsiam,
)
from guidance.clip.tokenize import Tokenizer
from guidance.clip.tokens import encode_patches, read_texts
from guidance.distributed import gather, world
from guidance.errors import InputError

Contrast = Literal["info_nce", "siglip", "filip"]

#: What no token is.
HIDDEN = -1


@final
class Objective(nn.Module):
    """A model, what its losses need beside it, and the losses.

    `model` is all that is exported; the rest (projectors, a predictor, a language model's head, a second
    projection) is trained and kept in checkpoints with it. `views` and `texts`: how many views of the images
    and of the texts the forward pass wants.
    """

    def __init__(
        self,
        model: CLIP | CustomTextCLIP,
        tokenizer: Tokenizer,
        *,
        contrast: Contrast = "info_nce",
        decoupled: bool = False,
        separate: bool = False,
        repeats: bool = True,
        multiview: float = 0.0,
        masked_language: float = 0.0,
        simsiam: float = 0.0,
        simclr: float = 0.0,
        similarity: float = 0.0,
        chunk: int | None = None,
        seed: int = 0,
    ) -> None:
        """Which losses, and their weights.

        `contrast`: "filip" is the mean of FILIP and InfoNCE, since embeddings of whole images and texts are
        what the model is for afterwards. `decoupled`: not for SigLIP. `separate`: texts look for images in a
        second projection, which begins as the first; for InfoNCE. `repeats`: pairs that share an id are right
        answers for each other. `chunk`: rows of the matrix of similarities that exist at a time. `seed`: of
        the initial weights beside the model. The others are weights, and `contrast` has what is left of 1:
        `multiview` of all pairs of augmented views but the first; `masked_language`; `simsiam` (DeCLIP) and
        `simclr` (SLIP) on embeddings of two views of the images; `similarity` regularisation.

        Raises InputError for losses that do not go together, for weights that leave nothing, and for SigLIP
        with a model without a bias.
        """
        super().__init__()
        if contrast not in get_args(Contrast):
            raise InputError(f"contrast must be info_nce, siglip or filip, got {contrast!r}")
        if contrast == "siglip" and decoupled:
            raise InputError("decoupled does not go with siglip, which has no denominator; take info_nce")
        if contrast != "info_nce" and separate:
            raise InputError(f"separate projections do not go with {contrast}; take info_nce")
        if contrast == "siglip" and model.logit_bias is None:
            raise InputError("siglip needs a model with a bias; make it with new_model(…, siglip=True)")
        self._weights = {
            "multiview": multiview,
            "masked_language": masked_language,
            "simsiam": simsiam,
            "simclr": simclr,
            "similarity": similarity,
        }
        nothing = torch.zeros(())
        combine(nothing, [(weight, nothing) for weight in self._weights.values()])
        self.views = 2 if multiview or simsiam or simclr else 1
        self.texts = 2 if multiview else 1
        self.model = model
        self._contrast, self._decoupled, self._repeats, self._chunk = contrast, decoupled, repeats, chunk
        names = ["images", "texts", "scale"]
        names += ["patches", "words", "present"] if contrast == "filip" else []
        names += ["bias"] if contrast == "siglip" else []
        names += ["images_back", "texts_back"] if separate else []
        names += ["projections", "predictions"] if simsiam else []
        names += ["contrasted"] if simclr else []
        names += ["spelling", "hidden"] if masked_language else []
        self._names = sorted(names)
        empty = tokenizer([""])[0].tolist()
        self._special, self._pad_id = sorted(set(empty)), empty[-1]
        reader = read_texts(model, self._pad_id)
        d, width, vocabulary = reader.embed_dim, reader.width, reader.embedding.num_embeddings
        self.back = self.simsiam = self.simclr = self.spelling = self.mask = None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if separate:
                projections = [nn.Linear(d, d, bias=False) for _ in range(2)]
                for projection in projections:
                    nn.init.eye_(projection.weight)
                self.back = nn.ModuleList(projections)
            if simsiam:  # of SimSiam's own sizes at d = 512
                self.simsiam = nn.ModuleList([projector(d, 4 * d, 4 * d), predictor(4 * d, d)])
            if simclr:
                self.simclr = projector(d, 4 * d, d)
            if masked_language:
                # BERT's head; what stands for a hidden token is not in a vocabulary that was trained without.
                first, last = nn.Linear(width, width), nn.Linear(width, vocabulary)
                self.spelling = nn.Sequential(first, nn.GELU(), nn.LayerNorm(width), last)
                self.mask = nn.Parameter(0.02 * torch.randn(reader.embedding.embedding_dim))

    def train(self, mode: bool = True) -> "Objective":
        """As ever, but what is locked stays as in evaluation: no dropout, and batch norm learns nothing."""
        super().train(mode)
        for module in self.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self

    def forward(
        self,
        images: Float[Tensor, "v n 3 s s"],
        tokens: Int[Tensor, "w n t"],
        draws: Float[Tensor, "n t 2"] | None = None,
    ) -> tuple[Tensor, ...]:
        """What `loss` compares: tensors with a row for each pair, and numbers.

        `images` are normalised as the model wants them. `draws`, uniform in [0, 1), say which tokens of the
        first texts a language model has to find; numbered by pair, a pair has the same on any rank.
        """
        if (len(images), len(tokens)) != (self.views, self.texts):
            raise InputError(
                f"there must be {self.views} views of images and {self.texts} of texts, "
                f"got {len(images)} and {len(tokens)}"
            )
        n, parts = images.shape[1], {}
        views, texts = images.flatten(0, 1), tokens.flatten(0, 1)
        reader = read_texts(self.model, self._pad_id)
        present = reader.present(texts)

        def by_pair(rows: Tensor) -> Tensor:
            return rows.unflatten(0, (-1, n)).transpose(0, 1)

        def units(rows: Tensor) -> Tensor:
            return by_pair(functional.normalize(exact(rows), dim=-1))

        seen, hidden = reader.encode(texts, present)
        if self._contrast == "filip":
            pooled, patches = encode_patches(self.model, views)
            # As long on every rank.
            hidden = functional.pad(hidden, (0, 0, 0, texts.shape[1] - hidden.shape[1]))
            parts["patches"], parts["words"] = units(patches), units(reader.project(hidden))
            parts["present"] = by_pair(present)
        else:
            pooled = self.model.encode_image(views)
        parts["images"], parts["texts"] = units(pooled), units(seen)
        parts["scale"] = exact(self.model.logit_scale).exp().reshape(())
        if self._contrast == "siglip":
            # Not the parameter itself, whose gradient nobody would carry on.
            parts["bias"] = exact(self.model.logit_bias).reshape(()).clone()
        if self.back is not None:
            parts["images_back"], parts["texts_back"] = units(self.back[0](pooled)), units(self.back[1](seen))
        if self.simsiam is not None:
            projections = self.simsiam[0](pooled)
            parts["projections"] = by_pair(exact(projections))
            parts["predictions"] = by_pair(exact(self.simsiam[1](projections)))
        if self.simclr is not None:
            parts["contrasted"] = units(self.simclr(pooled))
        if self.spelling is not None and self.mask is not None:
            parts["spelling"], parts["hidden"] = self._spell(tokens[0], draws, self.spelling, self.mask)
        return tuple(parts[name] for name in sorted(parts))

    def _spell(
        self,
        tokens: Int[Tensor, "n t"],
        draws: Float[Tensor, "n t 2"] | None,
        head: nn.Module,
        mask: Float[Tensor, " width"],
    ) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
        """For each text the cross-entropy of its hidden tokens, summed, and how many they are."""
        if draws is None:
            raise InputError("masked_language needs draws: which tokens are hidden")
        reader = read_texts(self.model, self._pad_id)
        vocabulary = reader.embedding.num_embeddings
        changed, chosen = mask_tokens(
            tokens, draws, mask_id=HIDDEN, special=self._special, vocabulary=vocabulary
        )
        places = changed == HIDDEN
        with _in_place_of(reader.embedding, places, mask):
            _, hidden = reader.encode(torch.where(places, tokens, changed), reader.present(tokens))
        chosen = chosen[:, : hidden.shape[1]]
        logits = exact(head(hidden[chosen]))
        losses = functional.cross_entropy(logits, tokens[:, : hidden.shape[1]][chosen], reduction="none")
        rows = chosen.nonzero()[:, 0]
        return losses.new_zeros(len(tokens)).index_add(0, rows, losses), chosen.sum(1)

    def loss(
        self, encoded: tuple[Tensor, ...], ids: Int[Tensor, "n k"] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The loss of a rank's rows against those of all ranks, and its parts by name, not weighted.

        `encoded`: the rows of all micro-batches in one, and the numbers. The mean of the ranks' losses is
        that of the whole batch.
        """
        parts = dict(zip(self._names, encoded, strict=True))
        found = self._contrasts(parts, ids if self._repeats else None)
        if self._weights["masked_language"]:
            # Ranks choose different numbers of tokens; the mean is over those of all.
            count = gather(parts["hidden"].sum()[None]).sum().clamp(min=1) / world()
            found["masked_language"] = parts["spelling"].sum() / count
        if self._weights["simsiam"]:
            predictions, projections = parts["predictions"], parts["projections"]
            found["simsiam"] = simsiam(
                (predictions[:, 0], predictions[:, 1]), (projections[:, 0], projections[:, 1])
            )
        if self._weights["simclr"]:
            first, second = parts["contrasted"].unbind(1)
            found["simclr"] = simclr(first, second)
        if self._weights["similarity"]:
            found["similarity"] = similarity_regularization(parts["images"][:, 0], parts["texts"][:, 0])
        auxiliary = [(weight, found[name]) for name, weight in self._weights.items() if weight]
        return combine(found["contrast"], auxiliary), found

    def _contrasts(
        self, parts: dict[str, Tensor], ids: Int[Tensor, "n k"] | None
    ) -> dict[str, Float[Tensor, ""]]:
        """The contrastive loss of the first views and, if that is wanted, the mean of those of all others."""

        def contrast(view: int, text: int) -> Tensor:
            images, texts, scale = parts["images"][:, view], parts["texts"][:, text], parts["scale"]
            if self._contrast == "siglip":
                return siglip(images, texts, scale, parts["bias"], ids=ids, chunk=self._chunk)
            back = None
            if self.back is not None:
                back = parts["images_back"][:, view], parts["texts_back"][:, text]
            whole = info_nce(
                images, texts, scale, ids=ids, decoupled=self._decoupled, reverse=back, chunk=self._chunk
            )
            if self._contrast == "info_nce":
                return whole
            fine = filip(
                parts["patches"][:, view],
                parts["words"][:, text],
                parts["present"][:, text],
                scale,
                ids=ids,
                decoupled=self._decoupled,
                chunk=self._chunk or 64,
            )
            return (whole + fine) / 2

        found = {"contrast": contrast(0, 0)}
        if self._weights["multiview"]:
            others = [contrast(view, text) for view, text in ((0, 1), (1, 0), (1, 1))]
            found["multiview"] = torch.stack(others).mean()
        return found


@contextmanager
def _in_place_of(
    embedding: nn.Embedding, places: Bool[Tensor, "n t"], vector: Float[Tensor, " width"]
) -> Iterator[None]:
    """An embedding that gives a vector of its own at some places, for the length of a block."""

    def put(module: nn.Module, tokens: tuple[Tensor], embedded: Tensor) -> Tensor:
        return torch.where(places[:, : embedded.shape[1], None], vector.to(embedded.dtype), embedded)

    handle = embedding.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()
