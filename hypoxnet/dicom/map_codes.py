"""Codes of quantities and units for parametric maps.

Quantities with a code in CID 7180 take it; the others take their name in the private scheme 99HYPOXNET. Unit codes are
UCUM, from CID 7181 and CID 85 where these have the unit; all leave the numbers as they are (1e-3 mm2/s is 1 um2/ms,
100 ml are 1 dl).
"""

from __future__ import annotations

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

from hypoxnet.dicom.errors import DicomError
from hypoxnet.quantities import Quantity

PRIVATE_SCHEME = "99HYPOXNET"

_UNITS: dict[str, tuple[str, str]] = {
    "1": ("1", "no units"),
    "%": ("%", "Percent"),
    "a.u.": ("[arb'U]", "arbitrary unit"),
    "s": ("s", "second"),
    "1/s": ("/s", "/s"),
    "1/min": ("/min", "/min"),
    "ml/ml/min": ("ml/ml/min", "milliliter per milliliter per minute"),
    "ml/100ml/min": ("ml/dl/min", "milliliter per 100 milliliter per minute"),
    "1e-3 mm2/s": ("um2/ms", "um2/ms"),
    "mM": ("mmol/l", "millimole per liter"),
    "mM s": ("mmol.s/l", "millimole second per liter"),
    "mmHg": ("mm[Hg]", "mmHg"),
    "HU": ("[hnsf'U]", "Hounsfield unit"),
}
# The unit of an uptake says which normalisation made it, by the end of the name; SUL is that of Janmahasatian here.
_UPTAKE_UNITS: dict[str, tuple[str, str]] = {
    "SUV": ("g/ml{SUVbw}", "Standardized Uptake Value body weight"),
    "SUL": ("g/ml{SUVlbm(Janma)}", "Standardized Uptake Value lean body mass (Janma)"),
    "SUVIBW": ("g/ml{SUVibw}", "Standardized Uptake Value ideal body weight"),
    "SUVBSA": ("cm2/ml{SUVbsa}", "Standardized Uptake Value body surface area"),
}
_UPTAKE = ("126400", "Standardized Uptake Value")
_QUANTITIES: dict[str, tuple[str, str]] = {
    "CT_HU": ("112031", "Attenuation Coefficient"),
    "T1W": ("110804", "T1 Weighted MR Signal Intensity"),
    "T2W": ("110805", "T2 Weighted MR Signal Intensity"),
    "T1": ("113063", "T1"),
    "R1": ("126393", "R1"),
    "R2STAR": ("126395", "R2*"),
    "T2STAR": ("113064", "T2*"),
    "ADC": ("113041", "Apparent Diffusion Coefficient"),
    "IVIM_D": ("113291", "Slow Diffusion Coefficient"),
    "IVIM_DSTAR": ("113292", "Fast Diffusion Coefficient"),
    "IVIM_F": ("113293", "Fast Diffusion Coefficient Fraction"),
    "KTRANS": ("126312", "Ktrans"),
    "KEP": ("126313", "kep"),
    "VE": ("126314", "ve"),
    "VP": ("126331", "vp"),
    "IAUC60": ("126321", "IAUC60"),
}


def unit_code(quantity: Quantity) -> Code:
    """The UCUM code of the unit.

    Raises:
        DicomError: The unit is not in the table.

    Example:
        >>> from hypoxnet.quantities import QUANTITIES
        >>> unit_code(QUANTITIES["FMISO_SUV"]).value, unit_code(QUANTITIES["ADC"]).value
        ('g/ml{SUVbw}', 'um2/ms')
    """
    found = _UPTAKE_UNITS.get(_ending(quantity)) or _UNITS.get(quantity.unit)
    if found is None:
        raise DicomError(f"{quantity.name}: no UCUM code is known for the unit {quantity.unit}; add it to the table")
    return Code(found[0], "UCUM", found[1])


def quantity_code(quantity: Quantity) -> Code:
    """The code of the quantity, of DICOM where it has one.

    Example:
        >>> from hypoxnet.quantities import QUANTITIES
        >>> quantity_code(QUANTITIES["KTRANS"]).value, quantity_code(QUANTITIES["FMISO_TMR"]).scheme_designator
        ('126312', '99HYPOXNET')
    """
    found = _UPTAKE if _ending(quantity) in _UPTAKE_UNITS else _QUANTITIES.get(quantity.name)
    if found is None:
        return Code(quantity.name, PRIVATE_SCHEME, quantity.meaning[:64])
    return Code(found[0], "DCM", found[1])


def private_scheme() -> CodingSchemeIdentificationItem:
    """What the private scheme is, for objects that use it."""
    return CodingSchemeIdentificationItem(
        designator=PRIVATE_SCHEME, name="Quantities of HypoxNet", responsible_organization="HypoxNet"
    )


def _ending(quantity: Quantity) -> str:
    """What follows the tracer in the name of an uptake."""
    return quantity.name.rpartition("_")[2] if quantity.unit in ("g/ml", "cm2/ml") else ""
