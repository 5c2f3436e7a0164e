"""The exported MONAI bundle, run by MONAI's own classes from its JSON, beside our inference."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from jsonschema import ValidationError, validate
from monai.bundle import ConfigParser
from scipy.spatial.transform import Rotation

from hypoxnet.bundle.export import monai_bundle
from hypoxnet.bundle.export.folder import read_export
from hypoxnet.bundle.export.monai_bundle import (
    INFERENCE,
    NETWORK,
    SCHEMA,
    compared_monai,
    export_monai,
    metadata_schema,
    monai_metadata,
)
from hypoxnet.bundle.metadata import check_metadata
from hypoxnet.cases import CaseRecord
from hypoxnet.errors import BundleError
from hypoxnet.geometry import shear_degrees
from hypoxnet.inference.config import InferenceConfig
from hypoxnet.inference.predictor import Predictor, load_predictor
from hypoxnet.jobs.export import verify_export
from hypoxnet.transforms.normalise import norm_of
from hypoxnet.transforms.settings import Region

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")

TURNED = np.array([[3.2, 1.1, 0.0, -40.0], [-1.1, 3.2, 0.0, -30.0], [0.0, 0.0, 5.0, -55.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def exported(tiny_spec, opened, tmp_path_factory) -> Callable[..., tuple[Predictor, Path]]:
    """A bundle and its export, which tests must not change; each is made once."""
    made: dict[str, tuple[Predictor, Path]] = {}

    def make(spec=tiny_spec, *, seeds=(1,)):
        key = repr((spec, seeds))
        if key not in made:
            predictor = opened(spec, seeds=seeds)
            folder = tmp_path_factory.mktemp("monai") / "monai"
            made[key] = predictor, export_monai(predictor.spec, predictor.models, folder)
        return made[key]

    return make


@pytest.fixture
def copied(exported, tmp_path) -> tuple[Predictor, Path]:
    """A bundle, and an export of it that may be changed."""
    predictor, folder = exported()
    return predictor, shutil.copytree(folder, tmp_path / "copy")


def rewritten(folder: Path, change: Callable[[torch.jit.ScriptModule, dict[str, str]], None]) -> None:
    """Change the network and the configurations inside its archive."""
    inside = {"metadata.json": b"", "inference.json": b""}
    network = torch.jit.load(folder / NETWORK, _extra_files=inside)
    texts = {name: text.decode() for name, text in inside.items()}
    change(network, texts)
    torch.jit.save(network, folder / NETWORK, _extra_files=texts)


def paths_of(record: CaseRecord) -> dict[str, str]:
    return {"case": record.key} | {name: str(path) for name, path in {**record.channels, **record.masks}.items()}


def by_monai(folder: Path, case: dict[str, str], output: Path) -> tuple[np.ndarray, np.ndarray]:
    """Probability and mask that MONAI writes for a case."""
    parser = ConfigParser()
    parser.read_config(folder / INFERENCE)
    parser["bundle_root"], parser["output_dir"] = str(folder), str(output)
    with warnings.catch_warnings(), torch.inference_mode():
        # MONAI registers every reader it knows, also one for DICOM on GPUs.
        warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader", category=UserWarning)
        prepared = parser.get_parsed_content("preprocessing")(dict(case))
        logits = parser.get_parsed_content("inferer")(prepared["image"][None], parser.get_parsed_content("network"))[0]
        parser.get_parsed_content("postprocessing")({**prepared, "pred": logits})
    name = case.get("case", "fmiso")
    return tuple(np.asarray(nib.load(output / name / f"{name}_{what}.nii.gz").dataobj) for what in ("probseg", "mask"))


def assert_same(predictor: Predictor, folder: Path, record: CaseRecord, output: Path, region: str = "hsv") -> None:
    ours = predictor.predict(record)
    probability, mask = by_monai(folder, paths_of(record), output)
    assert np.abs(probability - ours.probability[region]).max() < 1e-5
    assert (mask == ours.mask[region]).all()
    assert 0 < ours.mask[region].sum() < ours.mask[region].size, "a mask of nothing would agree by itself"


def test_probabilities_and_mask_are_those_of_our_inference(exported, make_case, tmp_path):
    predictor, folder = exported()
    assert_same(predictor, folder, make_case(), tmp_path / "out")


def test_an_ensemble_is_averaged_as_probabilities(exported, make_case, tmp_path):
    predictor, folder = exported(seeds=(1, 2, 5))
    assert_same(predictor, folder, make_case(seed=3), tmp_path / "out")


def test_members_are_calibrated_before_the_mean(exported, tiny_spec, make_case, tmp_path):
    spec = replace(tiny_spec, members=2, temperatures=((3.0,), (0.5,)))
    predictor, folder = exported(spec, seeds=(1, 2))
    assert_same(predictor, folder, make_case(seed=3), tmp_path / "out")


def test_a_channel_that_is_absent_is_told_to_the_network(exported, make_case, without_t1w, tmp_path):
    predictor, folder = exported()
    assert_same(predictor, folder, without_t1w(make_case()), tmp_path / "out")


def test_without_the_reference_channel_the_first_that_is_there_gives_the_grid(exported, make_case, tmp_path):
    predictor, folder = exported()
    record = make_case()
    assert_same(predictor, folder, replace(record, channels={"T1W": record.channels["T1W"]}), tmp_path / "out")


def test_without_a_contour_windows_cover_the_whole_image(exported, make_case, tmp_path):
    predictor, folder = exported()
    assert_same(predictor, folder, make_case(contour=False), tmp_path / "out")


def test_a_tumour_larger_than_a_window_is_predicted_by_several(exported, make_case, tmp_path):
    predictor, folder = exported()
    record = make_case()
    large = nib.load(record.masks["GTVP"])
    array = np.zeros(large.shape, np.uint8)
    array[2:22, 4:20, 3:9] = 1
    nib.save(nib.Nifti1Image(array, large.affine), record.masks["GTVP"])
    assert_same(predictor, folder, record, tmp_path / "out")


def test_oblique_grids_and_two_contours_on_different_ones(exported, make_case, tmp_path):
    predictor, folder = exported()
    record = make_case()
    rng = np.random.default_rng(7)
    node = np.zeros((20, 22, 16), np.uint8)
    node[6:12, 8:14, 5:9] = 1
    pet, contour = tmp_path / "turned.nii.gz", tmp_path / "node.nii.gz"
    nib.save(nib.Nifti1Image(rng.gamma(2.0, 0.6, (26, 24, 20)).astype(np.float32), TURNED), pet)
    nib.save(nib.Nifti1Image(node, TURNED), contour)
    record = replace(record, channels={**record.channels, "FMISO_SUV": pet}, masks={**record.masks, "GTVN": contour})
    assert_same(predictor, folder, record, tmp_path / "out")


def test_a_header_that_rounds_the_right_angles_of_an_oblique_grid_does_not_move_the_working_grid(
    exported, make_case, tmp_path
):
    predictor, folder = exported()
    record, pet = make_case(), tmp_path / "turned.nii.gz"
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = 3.0 * Rotation.from_euler("xyz", (1.5, -4.0, 0.5), degrees=True).as_matrix(), -30.0
    voxels = np.random.default_rng(7).gamma(2.0, 0.6, (23, 23, 23)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, affine), pet)
    assert 0 < shear_degrees(nib.load(pet).affine) < 1e-5
    assert_same(predictor, folder, replace(record, channels={"FMISO_SUV": pet}), tmp_path / "out")


def test_contours_that_lie_a_fraction_of_a_voxel_apart_are_joined_on_their_own_grid(exported, make_case, tmp_path):
    predictor, folder = exported()
    record, moved, turned = make_case(), tmp_path / "node.nii.gz", tmp_path / "turned.nii.gz"
    first = nib.load(record.masks["GTVP"])
    node, affine = np.zeros(first.shape, np.uint8), first.affine.copy()
    node[13:17, 10:14, 8:12] = 1
    affine[:3, 3] += (0.15, -0.15, 0.15)
    nib.save(nib.Nifti1Image(node, affine), moved)
    pet = np.random.default_rng(7).gamma(2.0, 0.6, (26, 24, 20)).astype(np.float32)
    nib.save(nib.Nifti1Image(pet, TURNED), turned)
    record = replace(record, channels={"FMISO_SUV": turned}, masks={**record.masks, "GTVN": moved})
    assert_same(predictor, folder, record, tmp_path / "out")


def test_a_ratio_is_made_of_uptake_and_muscle(exported, tiny_settings, make_spec, make_case, tmp_path):
    names = ("FMISO_SUV", "FMISO_TMR", "ADC")
    settings = replace(tiny_settings, channels=names, norms=tuple(norm_of(name) for name in names))
    predictor, folder = exported(make_spec(settings))
    record = make_case()
    suv = nib.load(record.channels["FMISO_SUV"])
    muscle = np.zeros(suv.shape, np.uint8)
    muscle[15:18, 15:18, 15:18] = 1
    voxels = np.asarray(suv.dataobj)
    ratio = (voxels / np.median(voxels[muscle > 0])).astype(np.float32)
    tmr, region, adc = (tmp_path / f"{name}.nii.gz" for name in ("tmr", "muscle", "adc"))
    without = np.where(voxels > 0.1, 1.0, np.nan).astype(np.float32)
    for path, array in ((tmr, ratio), (region, muscle), (adc, without)):
        nib.save(nib.Nifti1Image(array, suv.affine), path)
    channels = {"FMISO_SUV": record.channels["FMISO_SUV"], "ADC": adc}
    ours = predictor.predict(replace(record, channels={**channels, "FMISO_TMR": tmr}))
    theirs = replace(record, channels=channels, masks={**record.masks, "MUSCLE": region})
    probability, _ = by_monai(folder, paths_of(theirs), tmp_path / "out")
    assert np.abs(probability - ours.probability["hsv"]).max() < 1e-5
    nib.save(nib.Nifti1Image(np.zeros_like(muscle), suv.affine), region)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy's median of nothing
        probability, _ = by_monai(folder, paths_of(theirs), tmp_path / "out")
    without = predictor.predict(replace(record, channels=channels))
    assert np.abs(probability - without.probability["hsv"]).max() < 1e-5


def test_outside_of_contours_and_two_regions(exported, tiny_settings, make_spec, make_case, tmp_path):
    regions = (Region("hsv", ("HYPOXIA",)), Region("gtv", ("GTVP",)))
    predictor, folder = exported(make_spec(replace(tiny_settings, regions=regions, inside_tumour=False)), seeds=(1, 2))
    record = make_case()
    ours = predictor.predict(record)
    probability, mask = by_monai(folder, paths_of(record), tmp_path / "out")
    for place, name in enumerate(("hsv", "gtv")):
        assert np.abs(probability[..., place] - ours.probability[name]).max() < 1e-5
        assert (mask[..., place] == ours.mask[name]).all()


def test_the_one_image_of_monai_label_is_the_reference_channel(exported, make_case, without_t1w, tmp_path):
    predictor, folder = exported()
    record = without_t1w(make_case())
    case = paths_of(record)
    probability, _ = by_monai(folder, {"case": "label", "image": case["FMISO_SUV"], "GTVP": case["GTVP"]}, tmp_path)
    assert np.abs(probability - predictor.predict(record).probability["hsv"]).max() < 1e-5


def test_metadata_says_what_the_network_takes_and_gives(exported):
    _, folder = exported(seeds=(1, 2))
    about = json.loads((folder / "configs/metadata.json").read_text())
    check_metadata(about)
    validate(about, json.loads((folder / SCHEMA).read_text()))
    network = torch.jit.load(folder / "models/model.ts")
    image, pred = (about["network_data_format"][side] for side in ("inputs", "outputs"))
    logits = network(torch.rand(3, image["image"]["num_channels"], *image["image"]["spatial_shape"]))
    assert logits.shape[1] == pred["pred"]["num_channels"] == 2
    assert "hypoxnet" not in about["required_packages_version"]


def test_the_schema_refuses_metadata_without_a_required_key(tiny_spec):
    about = monai_metadata(tiny_spec)
    del about["network_data_format"]["inputs"]["image"]["dtype"]
    with pytest.raises(ValidationError, match="dtype"):
        validate(about, metadata_schema())


def test_the_archive_of_the_network_holds_what_monai_deploy_reads(exported):
    _, folder = exported()
    extra = {"metadata.json": "", "inference.json": ""}
    torch.jit.load(folder / "models/model.ts", _extra_files=extra)
    assert json.loads(extra["inference.json"]) == json.loads((folder / INFERENCE).read_text())
    assert json.loads(extra["metadata.json"]) == json.loads((folder / "configs/metadata.json").read_text())


def test_the_export_names_its_bundle_and_its_files_are_checked(copied):
    predictor, folder = copied
    assert read_export(folder)["bundle"]["digest"] == predictor.spec.digest
    (folder / INFERENCE).write_text("{}")
    with pytest.raises(BundleError, match=r"inference\.json was changed"):
        read_export(folder)


def test_mirrored_images_are_refused_rather_than_left_out(tiny_spec, make_bundle, tmp_path):
    spec = replace(tiny_spec, inference=replace(tiny_spec.inference, mirror=True))
    predictor = load_predictor(make_bundle(spec), InferenceConfig(device="cpu"))
    with pytest.raises(BundleError, match="mirrored images"):
        export_monai(predictor.spec, predictor.models, tmp_path / "monai")
    assert not (tmp_path / "monai").exists()


def test_agreement_is_rounding_and_stands_in_the_description(exported, tiny_spec):
    """Of what was read back, and for one window as for several of which one lacks a channel."""
    spec = replace(tiny_spec, members=2, temperatures=((3.0,), (0.5,)))
    for predictor, folder in (exported(), exported(spec, seeds=(1, 2))):
        found = read_export(folder)["agreement"]["network"]
        assert set(found["largest_difference"]) == {"pred", "logits"}
        assert all(0 <= apart <= 1e-5 for apart in found["largest_difference"].values())
        assert found["image_shapes"] == [[1, 2, 16, 16, 16], [3, 2, 16, 16, 16]]
        again = compared_monai(predictor.spec, predictor.models, folder)["network"]
        assert again.differences == found["largest_difference"]


def test_a_network_of_another_training_is_found(copied):
    predictor, folder = copied
    rewritten(folder, lambda network, _: [tensor.mul_(1.001) for tensor in network.parameters()])
    with pytest.raises(BundleError, match=r"^models/model\.ts: pred differs from the bundle's by"):
        compared_monai(predictor.spec, predictor.models, folder)


def test_a_network_that_gives_no_number_is_found(copied):
    predictor, folder = copied
    rewritten(folder, lambda network, _: next(network.parameters()).fill_(float("nan")))
    with pytest.raises(BundleError, match="pred differs from the bundle's by nan"):
        compared_monai(predictor.spec, predictor.models, folder)


@pytest.mark.parametrize("name", [INFERENCE, "configs/metadata.json", SCHEMA])
def test_a_configuration_that_says_something_else_is_refused_before_it_runs(copied, tmp_path, name):
    predictor, folder = copied
    content = json.loads((folder / name).read_text())
    content["network"] = f"$open({str(tmp_path / 'it ran')!r}, 'w')"
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(BundleError, match=f"^{name} says something else than this HypoxNet writes for tiny"):
        compared_monai(predictor.spec, predictor.models, folder)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("name", ["inference.json", "metadata.json"])
def test_what_monai_deploy_reads_inside_the_archive_is_compared_as_well(copied, name):
    predictor, folder = copied
    rewritten(folder, lambda _, texts: texts.update({name: "{}"}))
    with pytest.raises(BundleError, match=rf"^models/model\.ts \({name}\) says something else"):
        compared_monai(predictor.spec, predictor.models, folder)


def test_versions_of_packages_may_be_others_than_here(copied):
    predictor, folder = copied
    about = json.loads((folder / "configs/metadata.json").read_text()) | {"numpy_version": "3.1"}
    (folder / "configs/metadata.json").write_text(json.dumps(about))
    assert compared_monai(predictor.spec, predictor.models, folder)["network"].worst <= 1e-5


@pytest.mark.parametrize("spoiled", [b"", b"PK" + bytes(range(256)) * 20])
def test_an_archive_that_is_none_is_one_sentence(copied, spoiled):
    predictor, folder = copied
    (folder / NETWORK).write_bytes(spoiled)
    with pytest.raises(BundleError, match=r"is no MONAI bundle \(.*\); export the bundle again") as caught:
        compared_monai(predictor.spec, predictor.models, folder)
    assert "\n" not in str(caught.value)


def test_an_export_that_says_something_else_is_not_left_behind(opened, tiny_spec, tmp_path, monkeypatch):
    predictor = opened(tiny_spec)
    other = opened(tiny_spec, seeds=(9,))
    whole = monai_bundle.traced
    monkeypatch.setattr(monai_bundle, "traced", lambda spec, _: whole(spec, other.models))
    with pytest.raises(BundleError, match="differs from the bundle's by"):
        export_monai(predictor.spec, predictor.models, tmp_path / "monai")
    assert list(tmp_path.iterdir()) == []


def test_verify_compares_again_and_refuses_another_bundle_and_a_bundle_that_is_no_export(
    exported, tiny_spec, make_bundle, tmp_path
):
    _, folder = exported()
    found = verify_export(folder, [make_bundle(tiny_spec)])
    assert found == {"network": read_export(folder)["agreement"]["network"]["largest_difference"]}
    with pytest.raises(BundleError, match="was made of another bundle"):
        verify_export(folder, [make_bundle(tiny_spec, seeds=(9,), name="other")])
    with pytest.raises(BundleError, match="is a bundle, our own form"):
        verify_export(tmp_path / "other", [tmp_path / "other"])
