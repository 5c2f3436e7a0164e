"""Exports of bundles by name: of one, or of several that are averaged; and whether an export says what they say."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hypoxnet.bundle.export.agreement import Agreement
from hypoxnet.bundle.export.aotinductor import AOTINDUCTOR
from hypoxnet.bundle.export.encoder import compared_encoder, export_encoder
from hypoxnet.bundle.export.ensemble import join_bundles
from hypoxnet.bundle.export.folder import read_export
from hypoxnet.bundle.export.formats import GraphFormat, Precision, agreement_json, compared, export_graphs
from hypoxnet.bundle.export.monai_bundle import compared_monai, export_monai
from hypoxnet.bundle.export.onnx_program import ONNX
from hypoxnet.bundle.export.precision import FLOAT32, PRECISIONS, with_stored_weights
from hypoxnet.bundle.export.torch_program import TORCH
from hypoxnet.bundle.export.torchscript import TORCHSCRIPT
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.errors import BundleError, ConfigError
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import Predictor, load_predictor
from hypoxnet.jobs.precision_loss import loss_of_precision
from hypoxnet.models.joint import HypoxNet

Exporter = Callable[[BundleSpec, Sequence[HypoxNet], Path], Path]

GRAPHS: Mapping[str, GraphFormat] = {form.kind: form for form in (ONNX, TORCH, TORCHSCRIPT, AOTINDUCTOR)}
OTHERS: Mapping[str, Exporter] = {"monai": export_monai}
OWN = "safetensors"
ENCODER = "encoder"
FORMATS = (OWN, *GRAPHS, *OTHERS, ENCODER)
# Whose runtimes multiply weights of other types than float32.
ROUNDED = ("onnx", "torch")


def export_bundles(
    bundles: Sequence[Path],
    kind: str,
    output: Path,
    *,
    weights: str = FLOAT32,
    cases: Path | None = None,
    member: int | None = None,
) -> Path:
    """Write a bundle, or several as one ensemble, in another program's form.

    Args:
        bundles: Folders of one or more bundles of one kind.
        kind: One of `FORMATS`; `safetensors` is our own.
        output: Folder of the export; made anew as a whole.
        weights: One of `PRECISIONS`.
        cases: Manifest of the cases on which the loss of fewer bits is measured; with such weights only.
        member: Whose encoder is written, from 0; with `encoder` only, where None is the first.

    Raises:
        BundleError: A bundle cannot be read, two differ, or the export does not say what the bundle says.
        ConfigError: No such format, choices that do not go together, something that is not installed, or `output` lies
            inside a bundle.
        ManifestError: `cases` has faults.
    """
    _check(bundles, kind, output, weights, cases)
    if member is not None and kind != ENCODER:
        raise ConfigError(f"--member {member} goes with --to {ENCODER}, {kind} holds every member; leave it out")
    if kind == OWN:
        return join_bundles(bundles, output)
    if kind == ENCODER:
        return _encoder(bundles, output, member or 0)
    with opened(bundles) as predictor:
        if kind in OTHERS:
            return OTHERS[kind](predictor.spec, predictor.models, output)
        form = GRAPHS[kind]
        form.ready()
        loss = None if cases is None else loss_of_precision(predictor, weights, cases)
        precision = Precision(weights, loss)
        return export_graphs(predictor.spec, predictor.models, output, form=form, precision=precision)


def verify_export(folder: Path, bundles: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Whether an export is whole, and says what its bundle says.

    Files of ONNX are looked at before anything in them runs. The forms of PyTorch are loaded by PyTorch, which runs
    what is in them: verify only those that come from someone you trust.

    Args:
        folder: The export.
        bundles: What it was made of, in that order.

    Returns:
        Graph to output to the largest difference.

    Raises:
        BundleError: A file is missing, changed or none of this form, the export is of another bundle, or numbers
            differ by more than rounding.
        ConfigError: What runs the form is not installed.
    """
    content = read_export(folder)
    kind = str(content.get("kind"))
    if kind not in (*GRAPHS, *OTHERS, ENCODER):
        raise BundleError(f"{folder} is an export as {kind!r}, this HypoxNet knows {', '.join(FORMATS[1:])}")
    if kind in GRAPHS:
        GRAPHS[kind].ready()
    with opened(bundles) as predictor:
        _same_bundle(folder, content, predictor.spec)
        if kind in GRAPHS:
            found = _graphs_again(folder, content, predictor, GRAPHS[kind])
        elif kind == ENCODER:
            member = _member_of(folder, content, len(predictor.models))
            found = compared_encoder(predictor.spec, predictor.models, folder, member=member)
        else:
            found = compared_monai(predictor.spec, predictor.models, folder)
    return {name: part["largest_difference"] for name, part in agreement_json(found).items()}


def _graphs_again(
    folder: Path, content: Mapping[str, object], predictor: Predictor, form: GraphFormat
) -> dict[str, Agreement]:
    precision = _precision_of(folder, content)
    graphs = form.graphs(predictor.spec, with_stored_weights(predictor.models, precision))
    return {
        graph.name: compared(predictor.spec, graph, folder / form.file_of(graph.name), form=form) for graph in graphs
    }


@contextmanager
def opened(bundles: Sequence[Path]) -> Iterator[Predictor]:
    """The networks of one bundle, or of several as one ensemble, on the CPU."""
    choices = InferenceConfig(device="cpu")
    if len(bundles) == 1:
        yield load_predictor(bundles[0], choices)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield load_predictor(join_bundles(bundles, Path(temporary) / "joined"), choices)


def _encoder(bundles: Sequence[Path], output: Path, member: int) -> Path:
    if len(bundles) > 1:
        raise ConfigError(f"--to {ENCODER} takes one network, {len(bundles)} bundles are named; name one, and --member")
    return export_encoder(bundles[0], output, member=member)


def _check(bundles: Sequence[Path], kind: str, output: Path, weights: str, cases: Path | None) -> None:
    if kind not in FORMATS:
        raise ConfigError(f"--to is {kind!r}, it must be one of {', '.join(FORMATS)}")
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output={output} is a file; give a folder")
    for bundle in bundles:
        if output.resolve() == bundle.resolve() or bundle.resolve() in output.resolve().parents:
            raise ConfigError(f"--output={output} lies inside {bundle}, whose files are checked; give another folder")
    if weights not in PRECISIONS:
        raise ConfigError(f"--weights is {weights!r}, it must be one of {', '.join(PRECISIONS)}")
    if weights != FLOAT32 and kind not in ROUNDED:
        raise ConfigError(f"--weights {weights} goes with --to {' or '.join(ROUNDED)}, not with --to {kind}")
    if (weights == FLOAT32) != (cases is None):
        raise ConfigError(
            f"--weights {weights} {'loses nothing, leave --cases out' if cases else 'needs --cases MANIFEST'}: on its "
            "cases the loss of fewer bits is measured"
        )


def _precision_of(folder: Path, content: Mapping[str, object]) -> str:
    weights = content.get("weights")
    precision = weights.get("precision") if isinstance(weights, Mapping) else None
    if precision not in PRECISIONS:
        raise BundleError(f"{folder} has weights of {precision!r}, this HypoxNet knows {', '.join(PRECISIONS)}")
    return str(precision)


def _member_of(folder: Path, content: Mapping[str, object], members: int) -> int:
    about = content.get(ENCODER)
    member = about.get("member") if isinstance(about, Mapping) else None
    if not isinstance(member, int) or not 0 <= member < members:
        raise BundleError(f"{folder} is the encoder of member {member!r}, the bundle has {members}, counted from 0")
    return member


def _same_bundle(folder: Path, content: Mapping[str, object], spec: BundleSpec) -> None:
    named = content.get("bundle")
    digest = named.get("digest") if isinstance(named, Mapping) else None
    if digest != spec.digest:
        raise BundleError(
            f"{folder} was made of another bundle ({str(digest)[:12]}, this one is {spec.digest[:12]}); name the one "
            "that it was made of with --against, several in the same order"
        )
