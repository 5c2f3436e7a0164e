"""Bundles that someone has tampered with: each is refused in one sentence, runs nothing and takes no memory."""

import json
import os
import pickle
import re
import struct
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from hypoxnet.bundle.read import read_bundle, read_networks
from hypoxnet.bundle.schema import CHECKSUMS, METADATA, SPEC, BundleSpec, weights_name
from hypoxnet.bundle.write import write_bundle
from hypoxnet.errors import BundleError
from hypoxnet.files import sha256_of
from hypoxnet.models import backbones

WEIGHTS = weights_name(0)


class Harmful:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return Path.touch, (Path(self.trace),)


def seal(folder, name):
    """Make the checksum of a file agree with its content, as someone who tampers would."""
    content = json.loads((folder / CHECKSUMS).read_text())
    content["sha256"][name] = sha256_of(folder / name)
    (folder / CHECKSUMS).write_text(json.dumps(content))


def change(*path, to):
    """Another value in the description."""

    def attack(folder):
        content = json.loads((folder / SPEC).read_text())
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to
        (folder / SPEC).write_text(json.dumps(content))
        seal(folder, SPEC)

    return attack


def text_of(name, text):
    """Another text in the place of a file."""

    def attack(folder):
        (folder / name).write_text(text)
        if name != CHECKSUMS:
            seal(folder, name)

    return attack


def nested(folder):
    (folder / SPEC).write_text('{"metrics": ' + "[" * 100_000 + "]" * 100_000 + "}")
    seal(folder, SPEC)


def nested_some(folder):
    """As deep as Python's parser still reads."""
    change("metrics", to=json.loads("[" * 300 + "]" * 300))(folder)


def sparse(name, size):
    """A file that claims gigabytes and takes none."""

    def attack(folder):
        with (folder / name).open("wb") as stream:
            stream.truncate(size)

    return attack


def ten_million_files(folder):
    with (folder / CHECKSUMS).open("w") as stream:
        stream.write('{"sha256": {')
        line = ", ".join(f'"docs/{{}}{n}": "{"0" * 64}"' for n in range(1000))
        for block in range(100):  # the largest file that is read would hold a tenth of these
            stream.write(line.replace("{}", f"{block}_") + ", ")
        stream.write(f'"{SPEC}": "{"0" * 64}"}}}}')


def safetensors(header, *, payload=b"", length=None):
    """A weights file with a header of one's own."""

    def attack(folder):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", length or len(text)) + text + payload)
        seal(folder, WEIGHTS)

    return attack


def header_of(folder):
    content = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def rewritten(edit):
    """The weights file with its header edited."""

    def attack(folder):
        header, payload = header_of(folder)
        edit(header)
        safetensors(header, payload=payload)(folder)

    return attack


def huge_shape(header):
    name = next(name for name in header if name.endswith("weight"))
    header[name]["shape"] = [2**20, 2**20, 2**10]


def overlapping(header):
    first, second = list(header)[1:3]
    header[second]["data_offsets"] = header[first]["data_offsets"]


def alias_of_nothing(header):
    header["__metadata__"] = {"aliases": json.dumps({"backbone.stem.more": "nothing"})}


def aliases_that_are_a_list(header):
    header["__metadata__"] = {"aliases": "[1, 2]"}


def other_type(header):
    for name, part in header.items():
        if name.endswith("stem.convolution.weight"):
            part["dtype"] = "I32"


def not_finite(folder):
    header, payload = header_of(folder)
    start, end = header["backbone.stem.convolution.weight"]["data_offsets"]
    spoilt = payload[:start] + struct.pack("<f", float("nan")) + payload[start + 4 : end] + payload[end:]
    safetensors(header, payload=spoilt)(folder)


def two_values(*changes):
    def attack(folder):
        for one in changes:
            one(folder)

    return attack


# What was done, how, and the sentence.
ATTACKS = {
    "members": (change("members", to=10**9), "members is 1000000000, it must be a whole number from 1 to 100"),
    "members as text": (change("members", to="9" * 50), r"members is '9+'"),
    "channels": (change("model", "channels", to=10**6), "model.channels is 1000000"),
    "regions": (change("model", "regions", to=10**6), "model.regions is 1000000"),
    "covariates": (change("model", "covariates", to=10**9), "model.covariates is 1000000000"),
    "features": (change("model", "backbone", "features", to=[10**6, 10**6]), r"features\[0\] is 1000000"),
    "features within bounds": (
        change("model", "backbone", "features", to=[2048, 4096]),
        r"model_0.safetensors does not fit its model: .* has shape \(4, .*\), the model \(2048, ",
    ),
    "levels": (
        two_values(
            change("model", "backbone", "features", to=[1] * 10**5),
            change("model", "backbone", "blocks", to=[1] * 10**5),
        ),
        "features is a list of 100000, it must be a list of 1 to 10",
    ),
    "blocks": (change("model", "backbone", "blocks", to=[10**9, 1]), r"blocks\[0\] is 1000000000"),
    "blocks within bounds": (
        change("model", "backbone", "blocks", to=[64, 64]),
        "the network that is described has more than",
    ),
    "fold": (change("model", "backbone", "fold", to=3), "fold is 3"),
    "hidden": (change("model", "outcome", "hidden", to=4096), "does not fit its model"),
    "hidden beyond": (change("model", "outcome", "hidden", to=10**10), "model.outcome.hidden is 10000000000"),
    "baseline": (change("model", "outcome", "baseline_df", to=10**9), "baseline_df is 1000000000"),
    "intervals": (change("model", "edges_months", to=[1.0] * 10**5), "edges_months is a list of 100000"),
    "options": (
        change("model", "backbone", "options", to={"deep_supr_num": 10**9}),
        "a number in model.backbone.options",
    ),
    "window": (change("settings", "window", to=[4096] * 3), "window has 68719476736 voxels"),
    "window as text": (change("settings", "window", to="huge"), "window is 'huge', it must be a list of 3 to 3"),
    "spacing": (change("settings", "spacing_mm", to=[1e-9] * 3), r"spacing_mm\[0\] is 1e-09"),
    "overlap": (change("inference", "overlap", to=0.9999999), "inference.overlap is 0.9999999"),
    "a number that is none": (change("settings", "norms", 0, "scale", to=float("nan")), "NaN is not a finite number"),
    "scale of 0": (change("settings", "norms", 0, "scale", to=0.0), r"settings.norms\[0\].scale is 0.0"),
    "another channel": (change("settings", "channels", to=["FMISO_SUV", "../T1W"]), "'../T1W' is not a known quantity"),
    "a region that is a path": (
        change("settings", "regions", to=[{"name": "../../outside", "masks": []}]),
        r"settings.regions\[0\].name is '../../outside', it must be a word that can be part of a file's name",
    ),
    "a term without its columns": (change("settings", "terms", 0, "means", to=[]), "age has 1 columns, and means"),
    "a name that writes to the terminal": (change("name", to="\x1b[2J"), "name is .*, it must be printable text"),
    "a map of another kind": (change("maps", to={"eval": {}}), "maps.eval is not known"),
    "a setting of a map": (change("maps", to={"dce": {"run": 1}}), "unexpected keyword argument 'run'"),
    "a table that is a device": (change("maps", to={"dce": {"aif_file": "/dev/zero"}}), "aif_file is '/dev/zero'"),
    "a table on another machine": (
        change("maps", to={"pet": {"input_file": "\\\\evil\\x.csv"}}),
        "it must be a file of this machine",
    ),
    "an unknown backbone": (change("model", "backbone", "backbone", to="os.system"), "model.backbone is 'os.system'"),
    "an outcome of another kind": (
        change("model", "outcome", "kind", to="x" * 10**6),
        "it must be printable text of at most",
    ),
    "metadata without tensors": (text_of(METADATA, '{"network_data_format": [1]}'), "lacks schema"),
    "nested": (nested, f"{SPEC} is nested more than 32 deep"),
    "nested as far as it can be read": (nested_some, f"{SPEC} is nested more than 32 deep"),
    "a huge description": (sparse(SPEC, 2**30), f"{SPEC} has 1073741824 bytes, in a bundle it has at most 4194304"),
    "huge checksums": (sparse(CHECKSUMS, 2**30), f"{CHECKSUMS} has 1073741824 bytes"),
    "ten million files": (ten_million_files, f"{CHECKSUMS} has .* bytes|lists .* files"),
    "a checksum that is none": (text_of(CHECKSUMS, json.dumps({"sha256": {SPEC: "x"}})), "does not list checksums"),
    "a header of exabytes": (safetensors(b"{}", length=2**60), "its header would have 1152921504606846976 bytes"),
    "a header that is no JSON": (safetensors(b"{" * 1000), "is not a readable safetensors file"),
    "a deep header": (safetensors(b'{"a":' * 100_000), "is not a readable safetensors file"),
    "a huge shape": (rewritten(huge_shape), "is not a readable safetensors file"),
    "a shape beyond all numbers": (
        safetensors({"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}, payload=b"0000"),
        "is not a readable safetensors file",
    ),
    "a shape of nothing": (
        safetensors({"w": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}),
        "does not fit its model",
    ),
    "overlapping tensors": (rewritten(overlapping), "is not a readable safetensors file"),
    "an alias of nothing": (rewritten(alias_of_nothing), "is declared an alias of nothing"),
    "aliases that are a list": (rewritten(aliases_that_are_a_list), "its aliases are not names by name"),
    "weights of another type": (rewritten(other_type), "is torch.int32, in the model torch.float32"),
    "weights that are not finite": (not_finite, "holds values that are not finite"),
}

TRIED = """
import contextlib, io, json, os, resource, runpy, sys
from pathlib import Path
from hypoxnet.bundle.read import read_bundle
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import load_predictor

program, good, *folders = map(Path, sys.argv[1:])
load_predictor(good, InferenceConfig(device="cpu"))
training = sorted({"lightning", "hypoxnet.training", "pytorch_lightning", "wandb"} & set(sys.modules))
address = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (address + 2**29, limits[1]))
before, found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
for folder in folders:
    try:
        load_predictor(folder, InferenceConfig(device="cpu"))
        found[folder.name] = "loaded"
    except Exception as error:
        found[folder.name] = f"{type(error).__name__}: {error}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found[folder.name] = [found[folder.name], (peak - before) / 1024]
resource.setrlimit(resource.RLIMIT_AS, limits)
# A job takes the loggers of its process for itself: it comes last.
os.chdir(good.parent)
sys.argv = [str(program), "bundle=refused", "manifest=cohort.csv", "output=out"]
with contextlib.redirect_stderr(io.StringIO()) as said:
    try:
        runpy.run_path(str(program), run_name="__main__")
    except SystemExit as end:
        status = end.code
job = {"status": status, "said": said.getvalue(), "left": Path("out").exists()}
print(json.dumps({"training": training, "found": found, "job": job}))
"""


@pytest.fixture(scope="module")
def tried(tiny_spec, make_network, tmp_path_factory):
    """What a process of its own said to a good bundle and to every tampered one, and then `infer.py` in it."""
    if sys.platform != "linux":
        pytest.skip("limits of memory are those of Linux")
    folder, states = tmp_path_factory.mktemp("tried"), [make_network(tiny_spec, seed=1).state_dict()]
    good = write_bundle(folder / "good", tiny_spec, states)
    folders = [folder / f"{number}" for number in range(len(ATTACKS))]
    for path, (attack, _) in zip(folders, ATTACKS.values(), strict=True):
        attack(write_bundle(path, tiny_spec, states))
    change("members", to=10**9)(write_bundle(folder / "refused", tiny_spec, states))
    (folder / "cohort.csv").write_text("case_id,age\nP1,60\n")
    program = Path(__file__).parents[2] / "infer.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRIED, str(program), str(good), *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_tampered_bundle_is_one_sentence_and_takes_no_memory(tried):
    wrong = {
        name: (said, grown_mib)
        for (name, (_, sentence)), (said, grown_mib) in zip(ATTACKS.items(), tried["found"].values(), strict=True)
        if not re.match(rf"BundleError: .*({sentence})", said) or len(said) > 1000 or grown_mib > 100
    }
    assert wrong == {}


def test_reading_a_bundle_imports_nothing_of_training(tried):
    assert tried["training"] == []


@pytest.mark.parametrize("place", [WEIGHTS, "models/model.pkl", "configs/evil.pkl", "evil.pkl", "docs/evil.pt"])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_pickle_is_refused_and_never_opened(tiny_spec, make_bundle, tmp_path, place, sealed):
    folder = make_bundle(tiny_spec)
    trace = tmp_path / "it ran"
    (folder / place).write_bytes(pickle.dumps(Harmful(trace)))
    if sealed:
        seal(folder, place)
    with pytest.raises(
        BundleError, match=r"was changed|safetensors file|does not belong|which no bundle holds|does not fit"
    ):
        read_bundle(folder)
    assert not trace.exists()


def test_a_pickle_of_pytorch_in_the_place_of_the_weights_is_never_opened(tiny_spec, make_bundle, tmp_path):
    folder = make_bundle(tiny_spec)
    torch.save({"weights": Harmful(tmp_path / "it ran")}, folder / WEIGHTS)
    seal(folder, WEIGHTS)
    with pytest.raises(BundleError, match="is not a readable safetensors file"):
        read_bundle(folder)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("name", ["checksums.json", SPEC])
def test_a_description_that_is_a_link_is_refused(tiny_spec, make_bundle, tmp_path, name):
    folder = make_bundle(tiny_spec)
    (folder / name).rename(tmp_path / "outside.json")
    (folder / name).symlink_to(tmp_path / "outside.json")
    with pytest.raises(BundleError, match="a link stands there"):
        read_bundle(folder)


def test_a_folder_of_weights_that_is_a_link_is_refused(tiny_spec, make_bundle, tmp_path):
    folder = make_bundle(tiny_spec)
    (folder / "models").rename(tmp_path / "models")
    (folder / "models").symlink_to(tmp_path / "models")
    with pytest.raises(BundleError, match="a link stands there"):
        read_bundle(folder)


def test_a_folder_full_of_files_is_not_searched_to_its_end(tiny_spec, make_bundle):
    folder = make_bundle(tiny_spec)
    for number in range(1100):
        (folder / f"{number}.txt").touch()
    with pytest.raises(BundleError, match="holds more than 1000 files"):
        read_bundle(folder)


def test_notes_and_licences_beside_a_bundle_do_not_matter(tiny_spec, make_bundle):
    folder = make_bundle(tiny_spec)
    for name in ("LICENSE", ".DS_Store", "notes.txt"):
        (folder / name).write_text("of the person who keeps it")
    assert read_bundle(folder)[0].members == 1


def test_reading_draws_nothing_from_the_generator(tiny_spec, make_bundle):
    folder = make_bundle(tiny_spec)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    read_networks(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_networks_are_those_that_were_written(tiny_spec, make_bundle, make_network):
    spec, models = read_networks(make_bundle(tiny_spec, seeds=(1, 2)))
    assert spec.members == len(models) == 2
    for seed, model in zip((1, 2), models, strict=True):
        expected = make_network(tiny_spec, seed=seed).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_seed_of_a_fit_without_images_may_be_any_number(tiny_spec):
    content = tiny_spec.to_json()
    content["model"]["backbone"] |= {"backbone": "none", "options": {"seed": 20261128, "strengths": [1e5]}}
    assert BundleSpec.from_json(content).model.backbone.options["seed"] == 20261128


@pytest.mark.parametrize("kept", [True, False])
def test_a_backbone_of_another_package_is_told_of_and_only_the_named_one_is_imported(
    tiny_spec, make_bundle, monkeypatch, caplog, kept
):
    points = [
        EntryPoint("theirs", f"{backbones.__name__}:_residual_unet", backbones.ENTRY_POINT_GROUP),
        EntryPoint("broken", "no_such_module:build", backbones.ENTRY_POINT_GROUP),
    ]
    backbone = replace(tiny_spec.model.backbone, backbone="theirs")
    spec = replace(tiny_spec, model=replace(tiny_spec.model, backbone=backbone))
    monkeypatch.setattr(backbones, "entry_points", lambda group: points)
    folder = make_bundle(spec)
    if not kept:
        monkeypatch.setattr(backbones, "entry_points", lambda group: [])
        with pytest.raises(BundleError, match=r"model\.backbone is 'theirs', known are"):
            read_bundle(folder)
        return
    read_bundle(folder)
    assert "the backbone theirs of this bundle is code of hypoxnet.models.backbones" in caplog.text


def test_a_bundle_that_is_refused_ends_infer_with_status_2(tried):
    said = tried["job"]["said"].strip()
    assert tried["job"]["status"] == 2
    assert said.endswith("members is 1000000000, it must be a whole number from 1 to 100")
    assert "\n" not in said
    assert not tried["job"]["left"]
