"""The joint network: one forward pass gives the segmentation and the outcome.

Axis legend: B patients, C channels, K regions, P covariates, F features, R read-outs, J causes, D H W voxels.
Outputs of the outcome head are B J and as many columns as the outcome model has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hypoxnet.cases import Logits
from hypoxnet.models.backbones import Backbone
from hypoxnet.models.heads import OutcomeHead
from hypoxnet.models.spec import ModelSpec
from hypoxnet.survival.time_models.base import TimeModel

# Read-outs are log1p(mL) / 3, so that 20 mL is about 1.
LOG_VOLUME_SCALE = 3.0


@dataclass(frozen=True, slots=True)
class Encoded:
    """What one window contributes; sums over windows give the whole patient.

    Args:
        segmentation: B K D H W logits.
        deep: Coarser logits, finest first; empty in evaluation mode.
        pooled_sum: B F, features summed over the tumour.
        pooled_weight: B F, weight of that sum.
    """

    segmentation: Tensor
    deep: tuple[Tensor, ...]
    pooled_sum: Tensor
    pooled_weight: Tensor


class HypoxNet(nn.Module):
    """Segmentation network with an outcome head on the same features.

    Args:
        spec: What it is.
        backbone: The segmentation network, see `models.backbones`; None for a model of covariates alone.
    """

    def __init__(self, spec: ModelSpec, backbone: Backbone | None) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        features = 0 if backbone is None else sum(backbone.pooled_features)
        read_outs = 1 + 2 * spec.regions if backbone is not None and spec.outcome.volumes else 0
        self.head = OutcomeHead(spec, features=features, read_outs=read_outs) if spec.outcome.enabled else None

    @property
    def time(self) -> TimeModel | None:
        """The outcome model that gives the head's outputs a meaning; None without an outcome head."""
        return None if self.head is None else self.head.time

    def forward(
        self,
        images: Tensor,
        presence: Tensor,
        tumour: Tensor,
        tumour_known: Tensor,
        covariates: Tensor,
        covariates_known: Tensor,
    ) -> Logits:
        """Segmentation and outcome of windows that each hold their whole patient's tumour.

        Shapes as in `cases.Batch`. Outputs of the outcome head are B 0 0 when the outcome head is switched off.
        """
        encoded = self.encode(images, presence, tumour, tumour_known)
        read_outs = self.read_outs(torch.sigmoid(encoded.segmentation), tumour, tumour_known)
        hazards = self.outcome(encoded.pooled_sum, encoded.pooled_weight, read_outs, covariates, covariates_known)
        return Logits(encoded.segmentation, hazards, encoded.deep)

    def encode(self, images: Tensor, presence: Tensor, tumour: Tensor, tumour_known: Tensor) -> Encoded:
        """Segmentation of a window, and its share of the features inside the tumour.

        Args:
            images: B C D H W.
            presence: B C.
            tumour: B 1 D H W.
            tumour_known: B.
        """
        assert self.backbone is not None, "a model of covariates alone reads no image"
        features = self.backbone(images, presence)
        mask = self.pooling_mask(features.segmentation, tumour, tumour_known)
        sums, weights = [], []
        for feature_map in features.pooled:
            weight = _averaged_to(mask, feature_map.shape[2:])
            sums.append((feature_map.float() * weight).sum(dim=(2, 3, 4)))
            weights.append(weight.sum(dim=(2, 3, 4)).expand(-1, feature_map.shape[1]))
        return Encoded(features.segmentation, features.deep, torch.cat(sums, dim=1), torch.cat(weights, dim=1))

    def pooling_mask(self, segmentation: Tensor, tumour: Tensor, tumour_known: Tensor) -> Tensor:
        """Where features are averaged: the contour, or the first predicted region where there is none; B 1 D H W."""
        predicted = torch.sigmoid(segmentation[:, :1].detach().float())
        if self.spec.outcome.pool == "prediction":
            return predicted
        return torch.where(tumour_known[:, None, None, None, None] > 0, tumour.float(), predicted)

    def read_outs(self, probability: Tensor, tumour: Tensor, tumour_known: Tensor) -> Tensor:
        """Volumes the outcome head reads: of the tumour, and of each region with its fraction of the tumour.

        Args:
            probability: B K D H W.
            tumour: B 1 D H W.
            tumour_known: B.

        Returns:
            B (1 + 2 K), or B 0 where the head reads none; detached: the outcome may not deform the contour through its
            volume.
        """
        probability = probability.detach().float()
        return self.volumes(
            probability, self.pooling_mask(torch.logit(probability[:, :1], eps=1e-6), tumour, tumour_known)
        )

    def volumes(self, probability: Tensor, mask: Tensor) -> Tensor:
        """`read_outs` inside a pooling mask, B 1 D H W, and with a gradient; none where the head reads no volumes."""
        if not self.spec.outcome.volumes:
            return probability.new_zeros((probability.shape[0], 0))
        inside = probability * mask if self.spec.outcome.pool == "contour" else probability
        tumour_ml = mask.sum(dim=(2, 3, 4)) * self.spec.voxel_ml
        region_ml = inside.sum(dim=(2, 3, 4)) * self.spec.voxel_ml
        return read_outs_of(self.spec, tumour_ml, region_ml)

    def outcome(
        self, pooled_sum: Tensor, pooled_weight: Tensor, read_outs: Tensor, covariates: Tensor, covariates_known: Tensor
    ) -> Tensor:
        """Outputs of the outcome head, of what the windows of a patient add up to; B 0 0 without a head."""
        if self.head is None:
            return pooled_sum.new_zeros((pooled_sum.shape[0], 0, 0))
        outputs: Tensor = self.head(mean_of_pooled(pooled_sum, pooled_weight), read_outs, covariates, covariates_known)
        return outputs

    def outcome_of_covariates(self, covariates: Tensor, covariates_known: Tensor) -> Tensor:
        """What `outcome` gives in a model of covariates alone; B P and B P."""
        nothing = covariates.new_zeros((covariates.shape[0], 0))
        return self.outcome(nothing, nothing, nothing, covariates, covariates_known)


def _averaged_to(mask: Tensor, shape: torch.Size) -> Tensor:
    """B 1 D H W averaged over the blocks that belong to each voxel of a coarser map, B 1 d h w."""
    if torch.compiler.is_exporting():
        # The blocks of a box whose sides are multiples; adaptive pooling to sizes that are not known has no ONNX.
        block = [whole // part for whole, part in zip(mask.shape[2:], shape, strict=True)]
        return nn.functional.avg_pool3d(mask, block)
    d, h, w = shape
    return nn.functional.adaptive_avg_pool3d(mask, (d, h, w))


def mean_of_pooled(pooled_sum: Tensor, pooled_weight: Tensor) -> Tensor:
    """Mean features inside the tumour, B F, from what windows add up to; near 0 where there is no tumour."""
    return pooled_sum / pooled_weight.clamp(min=1e-3)


def read_outs_of(spec: ModelSpec, tumour_ml: Tensor, region_ml: Tensor) -> Tensor:
    """`HypoxNet.read_outs` from volumes in mL, B 1 and B K; none where the head reads no volumes."""
    if not spec.outcome.volumes:
        return tumour_ml.new_zeros((tumour_ml.shape[0], 0))
    fraction = region_ml / tumour_ml.clamp(min=spec.voxel_ml)
    volumes = torch.log1p(torch.cat([tumour_ml, region_ml], dim=1)) / LOG_VOLUME_SCALE
    return torch.cat([volumes, fraction], dim=1)
