"""From a spec to a network."""

from __future__ import annotations

from hypoxnet.models.backbones import build_backbone
from hypoxnet.models.config import NO_BACKBONE
from hypoxnet.models.joint import HypoxNet
from hypoxnet.models.spec import ModelSpec


def build_model(spec: ModelSpec) -> HypoxNet:
    """The network of a spec, with fresh weights from torch's global generator.

    Raises:
        ConfigError: The backbone is unknown or refuses its options.
    """
    if spec.backbone.backbone == NO_BACKBONE:
        return HypoxNet(spec, None)
    return HypoxNet(spec, build_backbone(spec.backbone, channels=spec.channels, regions=spec.regions))
