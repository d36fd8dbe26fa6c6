"""Phikon, the ViT-B/16 of Filiot et al. 2023, as a backbone: two ways to see a small patch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from lymphinfer.errors import BundleError
from lymphinfer.markers.backbone_parts import BackboneSpec

REPOSITORY = "owkin/phikon"
WEIGHT_FILE = "model.safetensors"
# Hugging Face's ViT normalises with 1e-12, timm's with 1e-6.
LAYER_NORM_EPS = 1e-12

# A tensor's name, and the shape of its block, in a ViTModel written by transformers 4 and 5.
_BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias)")
_TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_PART = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "mlp.fc1": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc2": "mlp.fc2",
}
_QKV = {
    **{f"attention.attention.{name}": i for i, name in enumerate(("query", "key", "value"))},
    **{f"attention.{name}_proj": i for i, name in enumerate("qkv")},
}


class Phikon(nn.Module):
    """ViT with a class token, for patches of any size divisible by its own patch.

    Parameters
    ----------
    resize : bool
        Enlarge the image to the size that the network was trained at (224); else keep the image and
        interpolate the position embeddings (bicubic, as Hugging Face's ``interpolate_pos_encoding``
        does).
    image_px, patch_px, width, depth, heads : int
        ViT-B/16 by default; smaller ones serve tests.
    """

    def __init__(
        self,
        *,
        resize: bool,
        image_px: int = 224,
        patch_px: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
    ):
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        self.resize, self.image_px, self.patch_px, self.width = resize, image_px, patch_px, width
        self.vit = VisionTransformer(
            img_size=image_px,
            patch_size=patch_px,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            num_classes=0,
            dynamic_img_size=True,
            norm_layer=cast(Any, _norm),
        )

    def position_embedding(self, rows: int, columns: int) -> Tensor:
        """Embeddings of the class token and a grid of patches: (1, 1 + rows · columns, width)."""
        pos = cast(Tensor, self.vit.pos_embed)
        side = self.image_px // self.patch_px
        if (rows, columns) == (side, side):
            return pos
        grid = pos[:, 1:].reshape(1, side, side, self.width).permute(0, 3, 1, 2)
        grid = F.interpolate(grid.float(), (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([pos[:, :1], grid.flatten(2).transpose(1, 2).to(pos.dtype)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) normalised images to the class token, (B, width)."""
        if self.resize and x.shape[-2:] != (self.image_px, self.image_px):
            x = F.interpolate(x, (self.image_px, self.image_px), mode="bilinear", antialias=True)
        if x.shape[-1] % self.patch_px or x.shape[-2] % self.patch_px:
            raise BundleError(
                f"backbone phikon takes patches whose side is a multiple of {self.patch_px} px, "
                f"not {x.shape[-1]}; choose such a patch_px, or the backbone phikon-resize"
            )
        tokens = self.vit.patch_embed(x)
        rows, columns = int(tokens.shape[1]), int(tokens.shape[2])
        first = cast(Tensor, self.vit.cls_token).expand(len(x), -1, -1)
        tokens = torch.cat([first, tokens.flatten(1, 2)], dim=1)
        tokens = tokens + self.position_embedding(rows, columns)
        for block in self.vit.blocks:
            tokens = block(tokens)
        return cast(Tensor, self.vit.norm(tokens)[:, 0])


def _norm(width: int, **options: Any) -> nn.LayerNorm:
    return nn.LayerNorm(width, **{**options, "eps": LAYER_NORM_EPS})


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a Hugging Face ``ViTModel`` to those of `Phikon`.

    Parameters
    ----------
    state : mapping of str to Tensor
        As written by transformers 4 (``encoder.layer.0.attention.attention.query.weight``, as in
        the published file) or 5 (``layers.0.attention.q_proj.weight``), with or without a ``vit.``
        prefix. A pooler, which Phikon's features do not pass, is left out.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    BundleError
        A tensor that belongs to no ViT, or query, key or value missing.
    """
    renamed: dict[str, Tensor] = {}
    triples: dict[str, dict[int, Tensor]] = {}
    unknown: list[str] = []
    for full_name, tensor in state.items():
        name = full_name.removeprefix("vit.")
        match = _BLOCK.fullmatch(name)
        if name.startswith("pooler."):
            continue
        if name in _TOP:
            renamed[f"vit.{_TOP[name]}"] = tensor
        elif match and match[2] in _QKV:
            key = f"vit.blocks.{match[1]}.attn.qkv.{match[3]}"
            triples.setdefault(key, {})[_QKV[match[2]]] = tensor
        elif match and match[2] in _PART:
            renamed[f"vit.blocks.{match[1]}.{_PART[match[2]]}.{match[3]}"] = tensor
        else:
            unknown.append(full_name)
    broken = [key for key, parts in triples.items() if len(parts) != 3]
    if unknown or broken:
        raise BundleError(
            "not the state of a Hugging Face ViTModel: "
            + "; ".join([*(f"unknown {u}" for u in unknown[:3]), *(f"half of {b}" for b in broken)])
        )
    for key, parts in triples.items():
        renamed[key] = torch.cat([parts[0], parts[1], parts[2]])
    return renamed


def load_phikon(module: Phikon, path: Path) -> None:
    """Fill a network from a safetensors file, Hugging Face's or our own.

    Parameters
    ----------
    module : Phikon
    path : Path
        ``model.safetensors`` of `REPOSITORY`, or a saved state of `Phikon`.

    Raises
    ------
    BundleError
        Not a safetensors file, or not the weights of this network.
    """
    try:
        state = load_file(path)
        if any("embeddings." in key for key in state):
            state = from_hugging_face(state)
        module.load_state_dict(state)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise BundleError(
            f"{path}: not the weights of Phikon's ViT ({str(error).splitlines()[0]})"
        ) from error


def build_phikon(*, resize: bool, pretrained: bool = False) -> BackboneSpec:
    """Build the full ViT-B/16.

    Parameters
    ----------
    resize : bool
        As in `Phikon`.
    pretrained : bool
        Fetch the published weights from Hugging Face's hub (or take them from its cache).

    Returns
    -------
    BackboneSpec

    Raises
    ------
    BundleError
        The weights cannot be had.
    """
    module = Phikon(resize=resize)
    if pretrained:
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(REPOSITORY, WEIGHT_FILE))
        except Exception as error:
            raise BundleError(
                f"the weights of {REPOSITORY} cannot be had ({type(error).__name__}); download "
                f"https://huggingface.co/{REPOSITORY}/resolve/main/{WEIGHT_FILE} where there is a "
                "network and name the file as backbone_weights in the config"
            ) from error
        load_phikon(module, path)
    return BackboneSpec(module, module.width)
