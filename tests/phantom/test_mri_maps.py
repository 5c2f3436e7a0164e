"""Our own maps give back what went into the signal: to rounding without noise, within their errors with it."""

import json
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from mri_object import neck, neck_properties, random_properties

from hypoxnet.errors import MapError
from hypoxnet.jobs.maps import MapRequest, make_maps
from hypoxnet.maps.config import DceSettings, VfaSettings
from hypoxnet.maps.dce import ExtendedTofts, signal_to_concentration
from hypoxnet.maps.fitting import fit
from hypoxnet.maps.input_functions import timing
from hypoxnet.maps.registry import KINDS
from hypoxnet.maps.relaxometry import SpoiledFlips
from hypoxnet.phantom.mri.acquire import NOISE, acquire_mr, mr_session, rician
from hypoxnet.phantom.mri.contrast import arterial_input
from hypoxnet.phantom.mri.maps import MAKERS, contrast_input, fitted_maps, true_maps
from hypoxnet.phantom.mri.sequences import SEQUENCES, raw_series, series_needed
from hypoxnet.phantom.parameters.mri import MrProtocol, MrScanner
from hypoxnet.phantom.words import RawSeries
from hypoxnet.quantities import quantity

# Echo time 0 and gas that changes at once: then R2* does not enter the change of R1, and nothing is on its way.
IDEAL = MrProtocol(spoiled_te_s=0.0, wash_in_s=1e-3)
VOXELS = 4000
ALL = torch.ones(VOXELS, 1, 1, dtype=torch.bool)


def signals(properties, protocol, names):
    return {name: SEQUENCES[name](properties, protocol) for name in names}


def recovered(wanted, *, properties=None, protocol=IDEAL):
    """Truth and fit of voxels without noise, float64."""
    properties = properties or random_properties(VOXELS)
    raw = signals(properties, protocol, series_needed(wanted))
    return true_maps(properties, wanted, protocol), fitted_maps(raw, wanted, ALL)


@pytest.mark.parametrize("name", ["T1", "R1", "R2STAR", "T2STAR", "ADC"])
def test_straight_lines_give_back_the_truth_to_rounding(name):
    truth, found = recovered([name])
    assert torch.allclose(found[name], truth[name], rtol=1e-11)


@pytest.mark.parametrize(("name", "unit"), [("DR1", 0.05), ("DT1", 3.0), ("DR2STAR", 10.0)])
def test_changes_under_oxygen_are_given_back_to_rounding(name, unit):
    truth, found = recovered([name])
    assert float((found[name] - truth[name]).abs().max()) < 1e-10 * unit


def test_tofts_gives_back_the_truth_up_to_the_steps_of_its_input(monkeypatch):
    truth, found = recovered(["KTRANS", "VE", "VP"])
    for name in truth:
        assert float((found[name] - truth[name]).abs().max()) < 2e-3, name
        assert float(((found[name] - truth[name]) / truth[name]).abs().median()) < 1e-3, name
    monkeypatch.setattr("hypoxnet.phantom.mri.maps.FINE_S", 0.25)
    _, as_fine = recovered(["KTRANS", "VE", "VP"])
    for name in truth:
        assert float((as_fine[name] - truth[name]).abs().max()) < 5e-5, name


def test_segments_give_back_d_and_f_up_to_the_blood_that_is_left_at_200():
    p = random_properties(VOXELS)
    p = replace(p, d_star=p.d_star.clamp(min=40.0))
    truth, found = recovered(["IVIM_D", "IVIM_F"], properties=p)
    for name in ("IVIM_D", "IVIM_F"):
        assert torch.allclose(found[name], truth[name], rtol=2e-3), name


def test_late_contrast_agent_is_taken_for_less_plasma():
    late = random_properties(VOXELS, delay_s=3.0)
    truth, found = recovered(["KTRANS", "VP"], properties=late)
    share = {name: float((found[name] / truth[name]).median()) for name in found}
    assert share["VP"] < 0.85
    assert 1.0 < share["KTRANS"] < 1.2


def test_exchange_that_is_limited_by_flow_is_no_tofts_model():
    p = random_properties(VOXELS)
    truth, found = recovered(["KTRANS", "VP"], properties=p, protocol=replace(IDEAL, contrast_model="2cxm"))
    assert float((found["KTRANS"] / truth["KTRANS"]).median()) == pytest.approx(1.07, abs=0.05)
    assert float((found["VP"] / truth["VP"]).median()) < 0.8


def noisy(properties, name, snr, *, protocol=IDEAL, seed=1):
    clean = SEQUENCES[name](properties, protocol)
    sd = float(clean.signal[0].mean()) / snr
    seen = rician(clean.signal.float(), sd, np.random.default_rng(seed))
    return clean.signal.flatten(1), RawSeries(name, seen, {**clean.sidecar, NOISE: sd}), sd


def lowest_error(rows, sd):
    """Cramer-Rao: the smallest standard error of the first of the parameters whose derivatives P T N are given."""
    information = torch.einsum("ptn,qtn->npq", rows.double(), rows.double()) / sd**2
    return torch.linalg.inv(information)[:, 0, 0].sqrt()


def check_z(found, truth, error, *, mean=0.05, sd=0.06):
    z = ((found.flatten() - truth.flatten()) / error).double()
    assert bool(torch.isfinite(z).all())
    assert float(z.mean()) == pytest.approx(0.0, abs=mean)
    assert float(z.std()) == pytest.approx(1.0, abs=sd)


def test_r2star_errs_by_the_least_possible():
    p = random_properties(VOXELS)
    clean, seen, sd = noisy(p, "RAW_R2STAR", 200)
    times = torch.tensor(IDEAL.echo_times_s, dtype=torch.float64)[:, None]
    rows = torch.stack([-times * clean, clean])
    check_z(fitted_maps({"RAW_R2STAR": seen}, ["R2STAR"], ALL)["R2STAR"], p.r2star, lowest_error(rows, sd))


def test_r2star_at_the_noise_of_a_scan_is_low_by_a_tenth_of_its_error():
    """Weights that hold noise favour samples that came out high."""
    p = random_properties(VOXELS)
    clean, seen, sd = noisy(p, "RAW_R2STAR", MrScanner().snr_echoes)
    times = torch.tensor(IDEAL.echo_times_s, dtype=torch.float64)[:, None]
    error = lowest_error(torch.stack([-times * clean, clean]), sd)
    z = (fitted_maps({"RAW_R2STAR": seen}, ["R2STAR"], ALL)["R2STAR"].flatten() - p.r2star.flatten()) / error
    assert -0.2 < float(z.mean()) < 0.0
    assert float(z.std()) == pytest.approx(1.0, abs=0.05)


def test_adc_errs_by_the_least_possible():
    p = random_properties(VOXELS)
    p = replace(p, f=torch.zeros_like(p.f))
    clean, seen, sd = noisy(p, "RAW_ADC", 100)
    b = torch.tensor(IDEAL.adc_b_values, dtype=torch.float64)[:, None] * 1e-3
    found = fitted_maps({"RAW_ADC": seen}, ["ADC"], ALL)["ADC"]
    check_z(found, p.d, lowest_error(torch.stack([-b * clean, clean]), sd))


def test_t1_errs_by_the_least_possible():
    p = random_properties(VOXELS)
    _, seen, sd = noisy(p, "RAW_VFA", 50)
    model = SpoiledFlips(torch.tensor(IDEAL.flips_deg), tr_s=IDEAL.spoiled_tr_s)
    values = torch.stack([1 / p.r1.flatten(), p.proton_density.flatten()])
    rows = model.evaluate(values, torch.ones(1, VOXELS, dtype=torch.float64))[1]
    check_z(fitted_maps({"RAW_VFA": seen}, ["T1"], ALL)["T1"], 1 / p.r1, lowest_error(rows, sd))


def tofts_z(concentration, p, series):
    """z of Ktrans by the error that the fit reports."""
    times = torch.tensor(series.sidecar["VolumeTiming"], dtype=torch.float64) / 60
    when, plasma, _ = timing(times, None, contrast_input(series))
    found = fit(ExtendedTofts(when, plasma), concentration)
    z = (found.values["ktrans"] - p.ktrans.flatten()) / found.errors["ktrans"]
    return z[torch.isfinite(z)]


def millimolar(signal, p):
    """Concentration with T1 known."""
    return signal_to_concentration(
        signal,
        t10_s=1 / p.r1.flatten(),
        flip_rad=math.radians(IDEAL.contrast_flip_deg),
        tr_s=IDEAL.spoiled_tr_s,
        relaxivity_per_s_mm=IDEAL.relaxivity_per_s_mm,
        baseline=slice(0, 6),
    )


def test_ktrans_errs_as_its_standard_error_says_where_its_assumptions_hold():
    p = random_properties(VOXELS)
    clean, series, _ = noisy(p, "RAW_DCE", 60)
    exact = millimolar(clean, p)
    z = tofts_z(exact + 0.02 * torch.from_numpy(np.random.default_rng(1).standard_normal(exact.shape)), p, series)
    assert float(z.mean()) == pytest.approx(0.0, abs=0.05)
    assert float(z.std()) == pytest.approx(1.0, abs=0.05)


def test_ktrans_errs_by_twice_its_standard_error_since_all_volumes_owe_to_the_baseline():
    """What they owe leaves no residual, so the fit does not know of it; uneven noise adds a little."""
    p = random_properties(VOXELS)
    clean, series, _ = noisy(p, "RAW_DCE", 60)
    signal = series.signal.double().flatten(1)
    assert 1.4 < float(tofts_z(millimolar(signal, p), p, series).std()) < 2.4
    signal[:6] = clean[:6]
    known = tofts_z(millimolar(signal, p), p, series)
    assert float(known.mean()) == pytest.approx(0.0, abs=0.08)
    assert 1.0 < float(known.std()) < 1.25


def scanned(anatomy, wanted, *, scanner=None, noise=True, seed=0, protocol=None):
    """Properties, session and recorded series of a neck."""
    p = neck_properties(anatomy, seed=seed)
    session = mr_session(anatomy, scanner or MrScanner(voxel_mm=(4.0, 4.0, 4.0)), np.random.default_rng(seed))
    generator = np.random.default_rng(seed + 1) if noise else None
    made = raw_series(p, protocol or MrProtocol(), series_needed(wanted), session)
    return p, session, {series.name: acquire_mr(series, session, generator) for series in made}


def test_maps_of_a_scan_lie_inside_the_mask_only_and_in_plausible_ranges():
    anatomy = neck()
    wanted = list(MAKERS)
    _, session, raw = scanned(anatomy, wanted)
    mask = torch.zeros(session.grid.shape, dtype=torch.bool)
    mask[6:13, 6:13, 6:13] = True
    found = fitted_maps(raw, wanted, mask)
    assert list(found) == wanted
    for name, values in found.items():
        assert values.shape == mask.shape
        assert bool(torch.isfinite(values).all())
        assert not bool(values[~mask].any())
        inside = values[mask]
        assert quantity(name).low <= float(inside.median()) <= quantity(name).high, name


def test_maps_of_a_scan_follow_the_truth_in_the_tumour():
    anatomy = neck()
    wanted = ["T1", "R2STAR", "KTRANS", "ADC", "DR1"]
    quiet = MrScanner(voxel_mm=(4.0, 4.0, 4.0), field_of_view_share=1.0).without_imperfections()
    quiet = replace(quiet, obliquity_deg=0.0, off_centre_mm=0.0)
    protocol = replace(IDEAL, spoiled_te_s=0.0)
    p, session, raw = scanned(anatomy, wanted, scanner=quiet, noise=False, protocol=protocol)
    assert session.grid.same_as(anatomy.grid)
    truth, found = true_maps(p, wanted, protocol), fitted_maps(raw, wanted, anatomy.tumour)
    for name in wanted:
        error = (found[name] - truth[name])[anatomy.tumour]
        # Contrast agent is a second or two late, which the fit does not know of.
        allowed = 0.15 if name == "KTRANS" else 0.01
        assert float((error / truth[name][anatomy.tumour]).abs().median()) < allowed, name


def test_a_map_that_needs_a_series_says_which():
    p = random_properties(VOXELS)
    raw = signals(p, IDEAL, ["RAW_R2STAR"])
    with pytest.raises(MapError, match="KTRANS is fitted to RAW_DCE, there is RAW_R2STAR; take it too"):
        fitted_maps(raw, ["KTRANS"], ALL)
    with pytest.raises(MapError, match="PO2 is not fitted"):
        fitted_maps(raw, ["PO2"], ALL)
    with pytest.raises(MapError, match="PO2 has no truth in MRI"):
        true_maps(p, ["PO2"], IDEAL)
    with pytest.raises(MapError, match="resample it"):
        fitted_maps(raw, ["R2STAR"], ALL[:5])


def write(folder, series, grid, name=None):
    path = folder / f"{name or series.name}.nii.gz"
    array = np.moveaxis(series.signal.numpy().astype(np.float32), 0, 3)
    nib.save(nib.Nifti1Image(array, grid.matrix), path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(dict(series.sidecar)))
    return path


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """Series of a neck without noise as files, and its truth."""
    anatomy, folder = neck(), tmp_path_factory.mktemp("raw")
    p = neck_properties(anatomy)
    p = replace(p, delay_s=torch.zeros_like(p.ve))
    files = {name: write(folder, SEQUENCES[name](p, IDEAL), anatomy.grid) for name in SEQUENCES}
    for name, values in (("t1", 1 / p.r1), ("mask", anatomy.tumour.float())):
        files[name] = write(folder, RawSeries(name, values[None], {}), anatomy.grid)
    for name in ("t1", "mask"):
        image = nib.load(files[name])
        kind = np.uint8 if name == "mask" else np.float32
        nib.save(nib.Nifti1Image(image.get_fdata()[..., 0].astype(kind), image.affine), files[name])
    given = arterial_input(IDEAL.bolus_s, 0.42, until_s=IDEAL.contrast_spacing_s * (IDEAL.contrast_volumes - 1))
    rows = [f"{60 * t:.4f},{c:.8g}" for t, c in zip(given.times_min.tolist(), given.plasma.tolist(), strict=True)]
    files["aif"] = folder / "aif.csv"
    files["aif"].write_text("\n".join(["time_s,plasma", *rows]))
    return files, p, anatomy


@pytest.mark.parametrize(
    ("kind", "series", "extras", "tolerance"),
    [
        ("vfa", "RAW_VFA", (), {"T1": 1e-3, "R1": 1e-3}),
        ("r2star", "RAW_R2STAR", (), {"R2STAR": 1e-4, "T2STAR": 1e-4}),
        ("dr2star", "RAW_R2STAR", ("oxygen",), {"DR2STAR": 1e-2}),
        ("adc", "RAW_ADC", (), {"ADC": 1e-4}),
        ("ivim", "RAW_IVIM", (), {"IVIM_D": 0.03, "IVIM_F": 0.1}),
        ("oe", "RAW_OE", ("t1",), {"DR1": 1e-3, "DT1": 1e-3}),
        ("dce", "RAW_DCE", ("t1",), {"KTRANS": 0.01, "VE": 0.01, "VP": 0.01}),
    ],
)
def test_the_map_verbs_read_the_series_as_files_and_give_back_the_truth(on_disk, kind, series, extras, tolerance):
    files, p, anatomy = on_disk
    settings = KINDS[kind].settings()
    if kind == "dce":
        settings = DceSettings(aif="file", aif_file=str(files["aif"]))
    if kind == "vfa":
        settings = VfaSettings(method="linear")
    given = {"mask": files["mask"]} | {
        name: files["RAW_R2STAR_OXYGEN" if name == "oxygen" else name] for name in extras
    }
    made = make_maps(MapRequest(KINDS[kind], settings, [files[series]], given, device="cpu"))
    truth = true_maps(p, list(tolerance), IDEAL)
    found = {each.quantity.name: each.array for each in made.maps}
    inside = anatomy.tumour.numpy()
    for name, relative in tolerance.items():
        error = np.abs(found[name] - truth[name].numpy())[inside] / np.abs(truth[name].numpy()[inside])
        assert np.isfinite(error).all(), name
        assert np.median(error) < relative, name
