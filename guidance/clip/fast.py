"""A frozen vision transformer on the CPU, quicker and the same to rounding.

ViT-B/32, 4 crops, forward and backward, two cores of an EPYC (benchmarks/encoder.py): 1.65 times as quick as
open_clip's call in float32, at 200 of the 229 GFLOP/s that these cores can multiply; 12 times in bfloat16.

PyTorch hands a weight matrix to oneDNN in rows, and oneDNN rearranges it in every call. Weights that never
change are rearranged once here, as they are and transposed: the gradient with respect to a layer's input is
one product with the transposed matrix, and the gradients that nobody asks for are not computed. In float32
this differs from the plain modules by the order of summation alone.
"""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.transformer import LayerScale, QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn


class _Product(torch.autograd.Function):
    """x Wᵀ + b, differentiable with respect to x alone; W is packed, as it is and transposed."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        weight: Tensor,
        transposed: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.transposed = transposed  # type: ignore[attr-defined]
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad,) = grads
        transposed = ctx.transposed  # type: ignore[attr-defined]
        grad = torch.ops.mkldnn._linear_pointwise(grad.contiguous(), transposed, None, "none", [], "")
        return grad, None, None, None


class PackedLinear(nn.Module):
    """A frozen linear layer that computes in `dtype`, whatever it is given."""

    def __init__(
        self, weight: Float[Tensor, "out in"], bias: Float[Tensor, "out"] | None, dtype: torch.dtype
    ):
        super().__init__()
        weight = weight.detach().to(dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self.transposed = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous())
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.dtype = dtype

    def forward(self, x: Float[Tensor, "*n in"]) -> Float[Tensor, "*n out"]:
        return _Product.apply(x.to(self.dtype), self.weight, self.transposed, self.bias)

    def plain(self) -> Float[Tensor, "out in"]:
        """The weight as it was before it was packed, in `dtype`."""
        return self.weight.to_dense()


class PackedPatches(nn.Module):
    """The convolution that cuts an image into patches, as a linear layer over patches; float32 out.

    What it returns is the residual stream, which stays float32 in every precision: a bfloat16 stream is no
    quicker and three times as far from the truth (embedding error 1.8e-3 against 6e-4).
    """

    def __init__(self, convolution: nn.Conv2d, dtype: torch.dtype):
        super().__init__()
        self.size = convolution.kernel_size[0]
        self.linear = PackedLinear(convolution.weight.flatten(1), convolution.bias, dtype)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n width gh gw"]:
        n, c, h, w = images.shape
        s = self.size
        patches = images.view(n, c, h // s, s, w // s, s).permute(0, 2, 4, 1, 3, 5).reshape(n, -1, c * s * s)
        return self.linear(patches).float().transpose(1, 2).view(n, -1, h // s, w // s)


class PackedBlock(nn.Module):
    """open_clip's ResidualAttentionBlock, frozen, with its constant factors multiplied into the weights."""

    def __init__(self, block: ResidualAttentionBlock, dtype: torch.dtype):
        super().__init__()
        attention, mlp = block.attn, block.mlp
        self.ln_1, self.ln_2 = block.ln_1, block.ln_2
        self.heads = attention.num_heads

        scale = torch.ones(3, attention.embed_dim)
        scale[0] = attention.head_dim**-0.5
        scale = scale.flatten()
        self.qkv = PackedLinear(
            scale[:, None] * attention.in_proj_weight, scale * attention.in_proj_bias, dtype
        )
        gain = _gain(block.ls_1)
        self.out = PackedLinear(
            gain * attention.out_proj.weight, gain.flatten() * attention.out_proj.bias, dtype
        )

        # QuickGELU x σ(1.702 x) is SiLU(1.702 x) / 1.702: one operation in place of three.
        quick = 1.702 if isinstance(mlp.gelu, QuickGELU) else 1.0
        self.up = PackedLinear(quick * mlp.c_fc.weight, quick * mlp.c_fc.bias, dtype)
        self.activation = nn.SiLU() if isinstance(mlp.gelu, QuickGELU) else mlp.gelu
        gain = _gain(block.ls_2)
        self.down = PackedLinear(gain / quick * mlp.c_proj.weight, gain.flatten() * mlp.c_proj.bias, dtype)

    def forward(self, x: Float[Tensor, "n l width"], attn_mask: None = None) -> Float[Tensor, "n l width"]:
        x = x + self.attend(self.ln_1(x))
        return x + self.down(self.activation(self.up(self.ln_2(x))))

    def attend(self, x: Float[Tensor, "n l width"]) -> Float[Tensor, "n l width"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # Written out: scaled_dot_product_attention's backward takes longer on the CPU for this few tokens.
        mixed = F.softmax(q @ k.transpose(-1, -2), dim=-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


def plain_weights(block: PackedBlock) -> dict[str, Tensor]:
    """The weights of a block without LayerScale that does the same as a packed one, by open_clip's names.

    They are float32, equal to what was packed but for the rounding of the factors multiplied in.
    """
    width = block.ln_1.weight.numel()
    scale = torch.ones(3, width)
    scale[0] = (width // block.heads) ** 0.5
    scale = scale.flatten()
    one = torch.ones(1)
    quick = 1.702 * one if isinstance(block.activation, nn.SiLU) else one
    norms = nn.ModuleDict({"ln_1": block.ln_1, "ln_2": block.ln_2})
    found: dict[str, Tensor] = norms.state_dict()
    for name, layer, weight, bias in (
        ("attn.in_proj_", block.qkv, scale[:, None], scale),
        ("attn.out_proj.", block.out, one, one),
        ("mlp.c_fc.", block.up, 1 / quick, 1 / quick),
        ("mlp.c_proj.", block.down, quick, one),
    ):
        assert layer.bias is not None
        found[f"{name}weight"] = weight * layer.plain().float()
        found[f"{name}bias"] = bias * layer.bias.float()
    return found


def _gain(scale: nn.Module) -> Float[Tensor, "#width 1"]:
    """What a block multiplies a branch by, as a column."""
    return scale.gamma[:, None] if isinstance(scale, LayerScale) else torch.ones(1, 1)


def pack(tower: VisionTransformer, dtype: torch.dtype) -> None:
    """Freeze a tower on the CPU in place: its products are computed in `dtype`, everything else in float32.

    Blocks of another kind than ResidualAttentionBlock stay as they are, in float32.
    """
    tower.conv1 = PackedPatches(tower.conv1, dtype)
    blocks = tower.transformer.resblocks
    for i, block in enumerate(blocks):
        if type(block) is ResidualAttentionBlock:
            blocks[i] = PackedBlock(block, dtype)


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has oneDNN's packed products in `dtype`, and they and their gradient are right.

    They are operators that PyTorch keeps for its own compiler, so a release may change them.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 24, generator=generator, requires_grad=True)
    weight, bias = torch.randn(40, 24, generator=generator), torch.randn(40, generator=generator)
    cotangent = torch.randn(5, 40, generator=generator)
    with torch.enable_grad():
        try:
            y = PackedLinear(weight, bias, dtype)(x).float()
            (grad,) = torch.autograd.grad(y, x, cotangent)
        except (
            AttributeError,
            NotImplementedError,
            RuntimeError,
        ):  # no such operator; not for this processor
            return False
    tolerance = 64 * torch.finfo(dtype).eps
    right = torch.allclose(y, F.linear(x, weight, bias), rtol=tolerance, atol=tolerance)
    return right and torch.allclose(grad, cotangent @ weight, rtol=tolerance, atol=tolerance)
