"""Weights to begin with, and layers that stay: few events learn on features that many outlines have made."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from hypoxnet.bundle.read import read_bundle
from hypoxnet.errors import ConfigError
from hypoxnet.models.joint import HypoxNet

log = logging.getLogger(__name__)

# So many names of layers fit into a log line.
SHOWN = 5


def start_from_bundle(model: HypoxNet, folder: Path) -> tuple[str, ...]:
    """Take over the weights of a bundle's first model wherever name and shape agree.

    Patients who trained that bundle must not be withheld now: a bundle holds no names, so this cannot be checked here.

    Args:
        model: Changed in place.
        folder: The bundle.

    Returns:
        Names of the tensors that stay as they were drawn.

    Raises:
        BundleError: The bundle is incomplete or was changed.
        ConfigError: Nothing of it fits.
    """
    spec, members = read_bundle(folder)
    own, theirs = model.state_dict(), members[0]
    fitting = {name: tensor for name, tensor in theirs.items() if name in own and own[name].shape == tensor.shape}
    # The outcome model's own tables belong to its settings, not to what was learnt.
    fitting = {name: tensor for name, tensor in fitting.items() if not name.startswith("head.time.")}
    learnt = [name for name, _ in model.named_parameters()]
    fresh = tuple(name for name in learnt if name not in fitting)
    if len(fresh) == len(learnt):
        raise ConfigError(
            f"training.start={folder} ({spec.model.backbone.backbone}) has no layer in common with this network "
            f"({model.spec.backbone.backbone}); give the same model settings"
        )
    model.load_state_dict(fitting, strict=False)
    log.info("%d of %d layers begin with the weights of %s", len(learnt) - len(fresh), len(learnt), folder)
    if fresh:
        more = f" and {len(fresh) - SHOWN} more" if len(fresh) > SHOWN else ""
        log.warning("not in it, or of another shape, and drawn at random: %s%s", ", ".join(fresh[:SHOWN]), more)
    return fresh


def freeze(model: HypoxNet) -> list[Tensor]:
    """Let only the outcome head learn.

    Returns:
        The parameters that do.

    Raises:
        ConfigError: There is no outcome head, so that nothing would learn.
    """
    if model.head is None or model.backbone is None:
        raise ConfigError("training.freeze=backbone leaves nothing to train: the network has no outcome head")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
