"""Names of other people's networks to ours, layer by layer: only where the same place in the same structure is meant.

Source:
    nnU-Net v2 (Isensee et al. 2021, Nat Methods 18:203; 2024, nnU-Net Revisited), its networks from the package
    dynamic-network-architectures: ResidualEncoderUNet, PlainConvUNet. MONAI 1.6: SegResNet, DynUNet, SwinUNETR and
    MedNeXt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from hypoxnet.errors import ConfigError
from hypoxnet.models.joint import HypoxNet

NETWORK = "backbone.network."
# Of MONAI's networks: what reads images there and the features of our stem here, and what gives other people's labels.
INPUTS: Mapping[str, tuple[str, ...]] = {
    "segresnet": ("convInit.",),
    "dynunet": ("input_block.conv1.", "input_block.conv3.", "input_block.norm3."),
    "swin_unetr": ("swinViT.patch_embed.proj.", "encoder1.layer.conv1.", "encoder1.layer.conv3."),
    "mednext": ("stem.",),
}
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "segresnet": ("conv_final.2.",),
    "dynunet": ("output_block.", "deep_supervision_heads."),
    "swin_unetr": ("out.",),
    "mednext": ("out_0.", "out_blocks."),
}
READS_IMAGES = "it reads images; here the stem does, and this layer reads its features"
OTHER_LABELS = "it gives the labels of the other network"
NO_EFFECT = "a constant before an instance norm has no effect; there is none here"
NO_PLACE = "nothing here has its place"

PLAIN, RESIDUAL = "nnU-Net's PlainConvUNet", "nnU-Net's ResidualEncoderUNet"
FITS = {RESIDUAL: "model.backbone=residual_unet", PLAIN: "model=dynunet +model.options.res_block=false"}


@dataclass(frozen=True, slots=True)
class Translated:
    """Weights by our names.

    Args:
        kind: What network they are of.
        weights: Our name to the tensor; its shape may be another.
        names: Our name to theirs.
        unused: Their name to why it has no place here.
    """

    kind: str
    weights: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)

    def put(self, theirs: str, tensor: Tensor, ours: str) -> None:
        """Give a tensor its place."""
        self.weights[ours] = tensor
        self.names[ours] = theirs


def translate(weights: Mapping[str, Tensor], model: HypoxNet) -> Translated:
    """Bring a state dictionary of another program to our names.

    Args:
        weights: Of HypoxNet itself, of a MONAI network, or nnU-Net's `network_weights`.
        model: The network that is to begin with them.

    Raises:
        ConfigError: The network is of another structure than `model`; the sentence names what fits it.
    """
    if any(name.startswith(("backbone.", "head.")) for name in weights):
        return Translated("HypoxNet", dict(weights), {name: name for name in weights})
    backbone = model.spec.backbone.backbone
    if any(re.match(r"encoder\.stages\.\d+\.blocks\.", name) for name in weights):
        _refuse_other(RESIDUAL, backbone == "residual_unet" and model.spec.backbone.fold == 1, model)
        return _residual(weights)
    if any(re.match(r"encoder\.stages\.\d+\.\d+\.convs\.", name) for name in weights):
        plain = backbone == "dynunet" and model.spec.backbone.options.get("res_block", True) is False
        _refuse_other(PLAIN, plain, model)
        return _plain(weights, levels=len(model.spec.backbone.features))
    return _monai(weights, model)


def _refuse_other(kind: str, fits: bool, model: HypoxNet) -> None:
    if not fits:
        config = model.spec.backbone
        folded = f" with model.fold={config.fold}" if config.fold > 1 else ""
        raise ConfigError(
            f"training.start holds {kind}, this network is {config.backbone}{folded}, of another structure; "
            f"use {FITS[kind]}{' model.fold=1' if kind == RESIDUAL else ''} with as many features and blocks"
        )


def _residual(weights: Mapping[str, Tensor]) -> Translated:
    """ResidualEncoderUNet: its blocks, average pooling in the skip included, are those of `ResidualUNet`."""
    found = Translated(RESIDUAL)
    stages = _decoder_stages(weights)
    for theirs, tensor in _once(weights):
        _place(found, theirs, tensor, _residual_name(theirs, stages))
    return found


def _residual_name(theirs: str, stages: int) -> str | None:
    """Our name of a layer of a ResidualEncoderUNet; None where there is none."""
    if match := re.fullmatch(r"encoder\.stem\.convs\.0\.(conv|norm)\.(weight|bias)", theirs):
        return f"backbone.stem.{'convolution' if match[1] == 'conv' else 'norm'}.{match[2]}"
    if match := re.fullmatch(r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.conv([12])\.(conv|norm)\.(weight|bias)", theirs):
        layer = {"1": "first", "2": "second"}[match[3]] + ("_norm" if match[4] == "norm" else "")
        return f"backbone.encoder.levels.{match[1]}.{match[2]}.{layer}.{match[5]}"
    if match := re.fullmatch(r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.(\d)\.(conv|norm)\.(weight|bias)", theirs):
        place = int(match[3]) + (match[4] == "norm")
        return f"backbone.encoder.levels.{match[1]}.{match[2]}.skip.{place}.{match[5]}"
    if match := re.fullmatch(r"decoder\.transpconvs\.(\d+)\.(weight|bias)", theirs):
        return f"backbone.decoder.ups.{stages - 1 - int(match[1])}.{match[2]}"
    if match := re.fullmatch(r"decoder\.stages\.(\d+)\.convs\.0\.(conv|norm)\.(weight|bias)", theirs):
        level = stages - 1 - int(match[1])
        return f"backbone.decoder.merges.{level}.{0 if match[2] == 'conv' else 1}.{match[3]}"
    return None


def _plain(weights: Mapping[str, Tensor], *, levels: int) -> Translated:
    """PlainConvUNet: stages of two convolutions, as MONAI's DynUNet without residual blocks has them."""
    found = Translated(PLAIN)
    stages = _decoder_stages(weights)
    for theirs, tensor in _once(weights):
        if theirs == "encoder.stages.0.0.convs.0.conv.weight":
            found.unused[theirs] = READS_IMAGES
        else:
            _place(found, theirs, tensor, _plain_name(theirs, stages, levels))
    return found


def _plain_name(theirs: str, stages: int, levels: int) -> str | None:
    """Our name of a layer of a PlainConvUNet; None where there is none."""
    if match := re.fullmatch(r"encoder\.stages\.(\d+)\.0\.convs\.([01])\.(conv|norm)\.(weight|bias)", theirs):
        level = int(match[1])
        block = "input_block" if level == 0 else "bottleneck" if level == levels - 1 else f"downsamples.{level - 1}"
        return f"{NETWORK}{block}.{_of_pair(match)}"
    if match := re.fullmatch(r"decoder\.stages\.(\d+)\.convs\.([01])\.(conv|norm)\.(weight|bias)", theirs):
        return f"{NETWORK}upsamples.{_from_coarse(match[1], stages, levels)}.conv_block.{_of_pair(match)}"
    if match := re.fullmatch(r"decoder\.transpconvs\.(\d+)\.(weight|bias)", theirs):
        return f"{NETWORK}upsamples.{_from_coarse(match[1], stages, levels)}.transp_conv.conv.{match[2]}"
    return None


def _of_pair(match: re.Match[str]) -> str:
    number = int(match[2]) + 1
    return f"conv{number}.conv.{match[4]}" if match[3] == "conv" else f"norm{number}.{match[4]}"


def _from_coarse(stage: str, stages: int, levels: int) -> int:
    """Both count decoder stages from the coarsest; they are brought together at the finest."""
    return int(stage) + (levels - 1) - stages


def _place(found: Translated, theirs: str, tensor: Tensor, ours: str | None) -> None:
    """Into the place of a name, or among the unused with the reason."""
    if theirs.startswith("decoder.seg_layers."):
        found.unused[theirs] = OTHER_LABELS
    elif theirs.endswith("conv.bias"):
        found.unused[theirs] = NO_EFFECT
    elif ours is None:
        found.unused[theirs] = NO_PLACE
    else:
        found.put(theirs, tensor, ours)


def _once(weights: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """nnU-Net's layers without the second names under which its modules list them."""
    return [
        (name, tensor)
        for name, tensor in weights.items()
        if ".all_modules." not in name and not name.startswith("decoder.encoder.")
    ]


def _decoder_stages(weights: Mapping[str, Tensor]) -> int:
    found = (re.match(r"decoder\.transpconvs\.(\d+)\.", name) for name in weights)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _monai(weights: Mapping[str, Tensor], model: HypoxNet) -> Translated:
    """A network of MONAI's own names, to the same network behind our stem."""
    backbone = model.spec.backbone.backbone
    found = Translated(f"MONAI's {backbone}")
    everywhere = model.state_dict()
    canonical = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    for theirs, tensor in weights.items():
        ours = f"{NETWORK}{theirs}"
        if theirs.startswith(INPUTS.get(backbone, ())):
            found.unused[theirs] = READS_IMAGES
        elif theirs.startswith(OUTPUTS.get(backbone, ())):
            found.unused[theirs] = OTHER_LABELS
        elif ours in canonical:
            found.put(theirs, tensor, ours)
        elif ours not in everywhere:
            found.unused[theirs] = NO_PLACE
    return found
