"""Coded meaning of the regions that are written.

No code exists for the hypoxic subvolume of a tumour (PS3.16 as of 2024, SNOMED CT). It is written as what it
certainly is, a part of a neoplasm: category Morphologically Abnormal Structure, type Neoplasm; that it is hypoxic
stands in the label of the segment and in the name of the ROI. Gross tumour volumes have codes for planning objects (CID
9534, GTV Primary), but segments take theirs from CID 7159, which viewers know: Neoplasm, Primary or Secondary.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.sr.coding import Code

from hypoxnet.quantities import MASKS

Rgb = tuple[int, int, int]

# CID 7150: categories.
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
TISSUE = Code("85756007", "SCT", "Tissue")
SUBSTANCE = Code("91720002", "SCT", "Body Substance")
# CID 7159 and 7166: types.
PRIMARY = Code("372087000", "SCT", "Neoplasm, Primary")
SECONDARY = Code("14799000", "SCT", "Neoplasm, Secondary")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
MUSCLE = Code("91727004", "SCT", "Muscle")
BLOOD = Code("87612001", "SCT", "Blood")


@dataclass(frozen=True, slots=True)
class RegionMeaning:
    """What a region is, for DICOM.

    Args:
        words: In words.
        category: Segmented property category.
        kind: Segmented property type.
        interpreted: RT ROI Interpreted Type; empty where no defined term fits. A hypoxic subvolume has none, so that no
            planning system takes a research result for a target by itself.
        colour: Red, green, blue, 0 to 255.
    """

    words: str
    category: Code
    kind: Code
    interpreted: str
    colour: Rgb


_HYPOXIC = RegionMeaning(MASKS["HYPOXIA"], ABNORMAL, NEOPLASM, "", (0, 160, 255))
_MEANINGS: dict[str, RegionMeaning] = {
    "GTV": RegionMeaning("gross tumour volume", ABNORMAL, NEOPLASM, "GTV", (220, 30, 30)),
    "GTVP": RegionMeaning(MASKS["GTVP"], ABNORMAL, PRIMARY, "GTV", (220, 30, 30)),
    "GTVN": RegionMeaning(MASKS["GTVN"], ABNORMAL, SECONDARY, "GTV", (255, 150, 0)),
    "HYPOXIA": _HYPOXIC,
    "HSV": _HYPOXIC,
    "MUSCLE": RegionMeaning(MASKS["MUSCLE"], TISSUE, MUSCLE, "", (160, 90, 60)),
    "BLOOD": RegionMeaning(MASKS["BLOOD"], SUBSTANCE, BLOOD, "", (150, 0, 60)),
}


def meaning_of(name: str) -> RegionMeaning:
    """What a region is, by its name in any case; a name that is not known is tissue, which claims nothing.

    Example:
        >>> meaning_of("hsv").words, meaning_of("GTVp").kind.meaning, meaning_of("core").kind.meaning
        ('hypoxic subvolume', 'Neoplasm, Primary', 'Tissue')
    """
    known = _MEANINGS.get(name.upper())
    if known is not None:
        return known
    return RegionMeaning(MASKS.get(name.upper(), "region"), TISSUE, TISSUE, "", (120, 200, 80))


def label_of(name: str) -> str:
    """Words and name for a segment label, at most 64 characters.

    Example:
        >>> label_of("hsv")
        'hypoxic subvolume (hsv)'
    """
    label = f"{meaning_of(name).words} ({name})"
    return label if len(label) <= 64 else name
