"""The encoder alone, for transfer: weights as safetensors, a program that plain PyTorch loads, and what goes in.

encoder.safetensors      weights, for those who have HypoxNet (`read_encoder`)
encoder.pt2              the same as an exported program, for those who have PyTorch
export.json              architecture, channels with units and normalisation, feature maps, how far the two agree
docs/README.md           model card of the bundle
checksums.json           SHA-256 of every other file
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hypoxnet.bundle.export.agreement import TOLERANCE, Agreement, agreement
from hypoxnet.bundle.export.description import describe_export
from hypoxnet.bundle.export.folder import read_export, write_export
from hypoxnet.bundle.export.formats import agreement_json, in_one_sentence
from hypoxnet.bundle.export.graphs import EXAMPLE_BLOCKS, EXAMPLE_PATIENTS, Graph, example_inputs
from hypoxnet.bundle.export.torch_program import program_runner, write_program
from hypoxnet.bundle.read import read_networks
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.bundle.weights import read_header, read_weights, refuse_misfit
from hypoxnet.bundle.write import save_weights
from hypoxnet.errors import BundleError, ConfigError
from hypoxnet.models.encoders import FeatureEncoder, encoder_of
from hypoxnet.models.joint import HypoxNet
from hypoxnet.models.skeleton import skeleton_of

KIND = "encoder"
WEIGHTS = "encoder.safetensors"
PROGRAM = "encoder.pt2"


def export_encoder(bundle: Path, output: Path, *, member: int = 0) -> Path:
    """Write the stem and encoder of one member of a bundle.

    Args:
        bundle: The bundle.
        output: Folder of the export; made anew as a whole.
        member: Which network of the ensemble, from 0.

    Returns:
        `output`.

    Raises:
        BundleError: The bundle cannot be read, `output` holds something else, or the program gives other features.
        ConfigError: No such member, no image, or a backbone whose encoder cannot be taken out.

    Example:
        export_encoder(Path("runs/a/bundle"), Path("encoder"))
    """
    spec, models = read_networks(bundle)
    if not 0 <= member < len(models):
        raise ConfigError(f"member {member} is asked for, {bundle} has {len(models)}, counted from 0")
    encoder = encoder_of(models[member])
    graph = encoder_graph(spec, encoder)

    def write(folder: Path) -> dict[str, Any]:
        save_weights(encoder.state_dict(), folder / WEIGHTS)
        described = describe_export(spec, (), kind=KIND, files={}, more={KIND: _description(spec, encoder, member)})
        try:
            write_program(graph, folder / PROGRAM, described)
        except Exception as error:  # whatever torch.export says to a network whose sizes it cannot leave open
            raise ConfigError(
                f"{spec.name}: torch.export cannot write the encoder of {spec.model.backbone.backbone} "
                f"({type(error).__name__}); export the whole network with --to torchscript"
            ) from error
        found = compared_encoder(spec, models, folder, member=member)
        return described | {"agreement": agreement_json(found), "packages": {"torch": version("torch")}}

    return write_export(output, spec, write)


def compared_encoder(
    spec: BundleSpec, models: Sequence[HypoxNet], folder: Path, *, member: int
) -> dict[str, Agreement]:
    """An encoder on disk beside that of a bundle: its weights, then the features of its program.

    Args:
        spec: The bundle.
        models: Its members, on the CPU.
        folder: The files of the export.
        member: Whose encoder it is, from 0.

    Returns:
        `encoder` to how far each feature map is from the bundle's.

    Raises:
        BundleError: Other weights, a program that cannot be run, or other features.
    """
    encoder = encoder_of(models[member])
    refuse_misfit(read_header(folder / WEIGHTS), encoder.state_dict(), source=WEIGHTS)
    stored = read_weights(folder / WEIGHTS)
    changed = [name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, stored[name])]
    if changed:
        raise BundleError(
            f"{WEIGHTS}: {changed[0]} is not that of member {member} of {spec.name}; export the encoder again"
        )
    graph = encoder_graph(spec, encoder)
    with in_one_sentence(f"{PROGRAM} cannot be run by PyTorch", "export the encoder again"):
        found = agreement(spec, graph, program_runner(folder / PROGRAM, graph))
    found.refuse_worse_than(TOLERANCE, what=PROGRAM)
    return {KIND: found}


def read_encoder(folder: Path) -> tuple[FeatureEncoder, dict[str, Any]]:
    """An exported encoder as a module to train on, and its description.

    Args:
        folder: As `export_encoder` wrote it.

    Raises:
        BundleError: A file is missing or changed, no encoder, or weights of another network.

    Example:
        encoder, about = read_encoder(Path("encoder"))
        features = encoder(image, presence)["level_2"]
    """
    content = read_export(folder)
    if content.get("kind") != KIND:
        raise BundleError(f"{folder} holds an export as {content.get('kind')}, not an encoder")
    spec = BundleSpec.from_json(content["spec"])
    header = read_header(folder / WEIGHTS)
    # Laid out without memory: a decoder and a head have no more layers than an encoder many times over.
    encoder = encoder_of(skeleton_of(spec.model, most=10 * len(header) + 1000))
    refuse_misfit(header, encoder.state_dict(), source=str(folder / WEIGHTS))
    encoder.to_empty(device="cpu").load_state_dict(read_weights(folder / WEIGHTS), strict=True)
    return encoder, content


def encoder_graph(spec: BundleSpec, encoder: FeatureEncoder) -> Graph:
    """An encoder as a graph of images and marks of presence.

    Args:
        spec: The bundle.
        encoder: Of one of its members; where its sides cannot be free, the graph has those of the bundle's window.
    """
    sides = [encoder.multiple * n for n in EXAMPLE_BLOCKS] if encoder.free_sides else spec.settings.window
    example = example_inputs(spec, sides, patients=EXAMPLE_PATIENTS)
    outputs = tuple(part["name"] for part in encoder.layout(spec.model.channels))
    inputs = {name: example[name] for name in ("image", "presence")}
    return Graph(KIND, encoder, inputs, outputs, {"image": 2} if encoder.free_sides else {}, encoder.multiple)


def _description(spec: BundleSpec, encoder: FeatureEncoder, member: int) -> dict[str, Any]:
    """What `export.json` says besides the bundle's own words."""
    return {
        "member": member,
        "backbone": asdict(spec.model.backbone),
        "weights": WEIGHTS,
        "program": PROGRAM,
        "inputs": {
            "image": "B C X Y Z in RAS: the channels in order, normalised as `channels` says, 0 where absent",
            "presence": "B C: 1 where a channel was measured, 0 where it was not",
        },
        "sides_are_multiples_of": encoder.multiple,
        "smallest_side": 2 * encoder.multiple,
        "sides_of_program": None if encoder.free_sides else list(spec.settings.window),
        "feature_maps": encoder.layout(spec.model.channels),
    }
