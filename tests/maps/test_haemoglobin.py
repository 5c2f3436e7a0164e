import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from hypoxnet.errors import MapError
from hypoxnet.maps.haemoglobin import (
    EXTINCTION,
    absorption_per_cm,
    cherenkov_absorption,
    cherenkov_source,
    extinction,
    nonnegative_least_squares,
    photoacoustic_absorption,
    severinghaus_po2_mmhg,
    severinghaus_saturation,
    unmix,
)

FIVE_WAVELENGTHS = torch.tensor([730.0, 760.0, 800.0, 850.0, 900.0])
NAN, INF = float("nan"), float("inf")


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_table_comes_back_at_its_own_wavelengths():
    table = torch.tensor(EXTINCTION, dtype=torch.float64)
    torch.testing.assert_close(extinction(table[:, 0]), table[:, 1:])
    assert extinction(double(798.0))[0].tolist() == pytest.approx([807.2, 782.36])


@pytest.mark.parametrize("wavelength", [699.9, 900.1, NAN])
def test_wavelengths_beyond_the_table_are_refused_in_one_sentence(wavelength):
    with pytest.raises(MapError, match="from 700 to 900 nm"):
        extinction(double(750.0, wavelength))


def test_ratio_of_absorption_at_850_and_750_nm_is_that_worked_out():
    so2 = double(0.0, 0.5, 0.7, 1.0)
    absorption = absorption_per_cm(so2 * 1e-4, (1 - so2) * 1e-4, wavelengths_nm=double(850.0, 750.0))
    ratio = absorption[0] / absorption[1]
    assert ratio.tolist() == pytest.approx([0.49196, 0.90957, 1.20891, 2.04247], abs=5e-6)


def test_saturation_hardly_matters_at_the_isosbestic_point():
    """Between the wavelengths of the table the two curves cross near 797 nm."""
    wavelengths = double(*range(780, 801))
    spectra = extinction(wavelengths)
    crossing = wavelengths[(spectra[:, 0] - spectra[:, 1]).abs().argmin()]
    assert crossing.item() == pytest.approx(797, abs=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturation_and_haemoglobin_come_back_from_absorption(dtype):
    so2 = torch.rand(3, 4, generator=seeded(), dtype=torch.float64)
    thb = (20 + 200 * torch.rand(3, 4, generator=seeded(1), dtype=torch.float64)) * 1e-6
    absorption = absorption_per_cm(so2 * thb, (1 - so2) * thb, wavelengths_nm=FIVE_WAVELENGTHS).to(dtype)
    blood = unmix(absorption, FIVE_WAVELENGTHS)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    assert blood.so2.dtype == dtype
    torch.testing.assert_close(blood.so2.double(), so2, rtol=0, atol=tolerance)
    torch.testing.assert_close(blood.thb.double(), thb, rtol=tolerance, atol=0)
    torch.testing.assert_close(blood.hbo2 + blood.hb, blood.thb)
    assert float(blood.residual.abs().max()) < tolerance


def test_water_is_told_apart_from_haemoglobin():
    water = double(0.02, 0.03, 0.02, 0.04, 0.07)[:, None]
    absorption = absorption_per_cm(double(60e-6), double(40e-6), wavelengths_nm=FIVE_WAVELENGTHS) + 0.7 * water
    assert unmix(absorption, FIVE_WAVELENGTHS, others=water).so2.item() == pytest.approx(0.6, abs=1e-9)
    assert unmix(absorption, FIVE_WAVELENGTHS).residual.item() > 1e-3


def test_no_haemoglobin_has_no_saturation():
    absorption = torch.stack([torch.zeros(5), torch.full((5,), -1.0), torch.full((5,), NAN)], 1)
    blood = unmix(absorption, FIVE_WAVELENGTHS)
    for values in (blood.so2, blood.thb, blood.hbo2, blood.hb):
        assert torch.isnan(values).all()
    assert blood.residual[:2].tolist() == [0.0, 1.0]
    assert torch.isnan(blood.residual[2])


@pytest.mark.parametrize("absorbers", [1, 2, 3, 4])
def test_amounts_are_those_of_the_active_set_method_voxel_by_voxel(absorbers):
    generator = np.random.default_rng(absorbers)
    spectra = generator.random((6, absorbers)) * 10.0 ** np.arange(absorbers)
    signal = generator.normal(0.2, 1.0, size=(6, 600))
    amounts, residual = nonnegative_least_squares(torch.from_numpy(signal), torch.from_numpy(spectra))
    seen = set()
    for voxel in range(600):
        expected, norm = nnls(spectra, signal[:, voxel])
        np.testing.assert_allclose(amounts[:, voxel].numpy(), expected, rtol=1e-8, atol=1e-12)
        assert residual[voxel].item() == pytest.approx(norm / math.sqrt(6), rel=1e-9)
        seen.add(tuple(expected > 0))
    assert len(seen) == 2**absorbers  # every active set has been the answer somewhere


def test_as_many_wavelengths_as_absorbers_suffice():
    amounts, residual = nonnegative_least_squares(double(5.0, 4.0)[:, None], double(1.0, 2.0, 2.0, 1.0).reshape(2, 2))
    assert amounts[:, 0].tolist() == pytest.approx([1.0, 2.0])
    assert residual.item() == pytest.approx(0, abs=1e-12)


def test_absorbers_that_cannot_be_told_apart_are_refused():
    one = torch.ones(1, 3)
    with pytest.raises(MapError, match="2 absorbers cannot be told apart at 1 wavelengths"):
        unmix(one, double(800.0))
    with pytest.raises(MapError, match="2 wavelengths tell only 1 of 2"):
        unmix(one.expand(2, 3), double(800.0, 800.0))
    with pytest.raises(MapError, match="2 wavelengths tell only 0 of 1"):
        nonnegative_least_squares(one.expand(2, 3), torch.zeros(2, 1))
    with pytest.raises(MapError, match="name 1 to 4"):
        nonnegative_least_squares(torch.ones(6, 3), torch.rand(6, 5, generator=seeded()))
    with pytest.raises(MapError, match="wavelengths x absorbers"):
        nonnegative_least_squares(torch.ones(6, 3), torch.ones(5, 2))
    with pytest.raises(MapError, match="one image for each"):
        unmix(torch.ones(3, 3), double(750.0, 850.0))


# --- photoacoustic and Cherenkov ---


def test_photoacoustic_pressure_corrected_for_fluence_gives_the_saturation():
    so2, thb = double(0.3, 0.9), 1e-4
    absorption = absorption_per_cm(so2 * thb, (1 - so2) * thb, wavelengths_nm=FIVE_WAVELENGTHS)
    fluence = torch.exp(-torch.linspace(0.1, 1.5, 5, dtype=torch.float64))[:, None]
    pressure = 0.2 * fluence * absorption
    corrected = photoacoustic_absorption(pressure, gruneisen=0.2, fluence=fluence)
    torch.testing.assert_close(unmix(corrected, FIVE_WAVELENGTHS).so2, so2)
    level = photoacoustic_absorption(pressure, gruneisen=0.2, fluence=double(1.0))
    assert float((unmix(level, FIVE_WAVELENGTHS).so2 - so2).abs().min()) > 0.05


def test_no_fluence_gives_no_absorption():
    absorption = photoacoustic_absorption(double(0.0, 1.0, 1.0), gruneisen=0.2, fluence=double(0.0, 0.0, NAN))
    assert torch.isnan(absorption).all()
    with pytest.raises(MapError, match="must be positive"):
        photoacoustic_absorption(double(1.0), gruneisen=0.0, fluence=double(1.0))


def test_cherenkov_light_falls_with_the_square_of_the_wavelength():
    light = cherenkov_source(double(700.0, 800.0, 900.0))
    assert light.tolist() == pytest.approx([(8 / 7) ** 2, 1.0, (8 / 9) ** 2])


@pytest.mark.parametrize("path", [1.5, torch.linspace(1, 2, 5, dtype=torch.float64)], ids=["one", "per wavelength"])
def test_cherenkov_light_gives_the_saturation(path):
    so2 = double(0.2, 0.65)
    absorption = absorption_per_cm(so2 * 1e-4, (1 - so2) * 1e-4, wavelengths_nm=FIVE_WAVELENGTHS)
    source = cherenkov_source(FIVE_WAVELENGTHS.double())
    lengths = path[:, None] if isinstance(path, torch.Tensor) else path
    light = source[:, None] * torch.exp(-absorption * lengths)
    found = cherenkov_absorption(light, source, path_length_cm=path)
    torch.testing.assert_close(unmix(found, FIVE_WAVELENGTHS).so2, so2)


def test_a_source_taken_too_bright_is_taken_up_by_a_column_of_ones():
    absorption = absorption_per_cm(double(60e-6), double(40e-6), wavelengths_nm=FIVE_WAVELENGTHS)
    source = cherenkov_source(FIVE_WAVELENGTHS.double())
    found = cherenkov_absorption(source[:, None] * torch.exp(-absorption), 3 * source, path_length_cm=1.0)
    assert unmix(found, FIVE_WAVELENGTHS, others=torch.ones(5, 1)).so2.item() == pytest.approx(0.6, abs=1e-9)


def test_no_cherenkov_light_gives_no_absorption():
    found = cherenkov_absorption(double(0.0, -1.0, NAN), double(1.0, 1.0, 1.0), path_length_cm=1.0)
    assert torch.isnan(found).all()
    with pytest.raises(MapError, match="one positive length"):
        cherenkov_absorption(double(1.0), double(1.0), path_length_cm=0.0)
    with pytest.raises(MapError, match="3 wavelengths, the signal 1"):
        cherenkov_absorption(double(1.0), double(1.0, 1.0, 1.0), path_length_cm=1.0)


# --- saturation and pressure ---


def test_saturation_at_four_pressures_is_that_worked_out():
    found = severinghaus_saturation(double(10.0, 26.8, 40.0, 100.0))
    assert found.tolist() == pytest.approx([0.0965, 0.4986, 0.7495, 0.9775], abs=5e-5)


def test_pressure_is_the_inverse_of_saturation():
    pressures = torch.cat([double(0.0, 1e-6), torch.linspace(0.5, 300, 100, dtype=torch.float64)])
    saturation = severinghaus_saturation(pressures)
    assert all(low < high for low, high in pairwise(saturation.tolist()))
    torch.testing.assert_close(severinghaus_po2_mmhg(saturation), pressures, rtol=1e-9, atol=1e-15)


def test_saturation_without_a_pressure_is_nan_not_zero():
    assert torch.isnan(severinghaus_saturation(double(-1.0, NAN, INF))).all()
    assert torch.isnan(severinghaus_po2_mmhg(double(-0.1, 1.0, 1.1, NAN))).all()
