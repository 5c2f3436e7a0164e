"""Sizes of a neck and of the tumours in it, and CT numbers of its tissues."""

from __future__ import annotations

from dataclasses import dataclass

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.parameters.base import check, number

SUBSITES = ("oropharynx", "hypopharynx", "larynx", "oral cavity")
# Order of every tuple below that has one value for each place of the primary.
_EACH = "in the order oropharynx, hypopharynx, larynx, oral cavity"

_CIRCUMFERENCE = "Neck circumference as a marker of body adiposity, 2021, 4283 adults: men 405 mm, women 345 mm"
_SPINE = "CT of 50 men and 50 women, J Spinal Disord Tech 2004;17:102; mean of both sexes"
_CORD = "Sherman et al. 1990, AJNR 11:369, MRI at C4"
_CAROTID = "Krejza et al. 2006, Stroke 37:1103; mean of both sexes"
_JUGULAR = "ultrasound of 35 adults, Korean J Anesthesiol 2004;47:499, right side"
_LANDMARKS = "Mirjalili et al. 2012, Clin Anat 25:851, CT of 52 adults"
_TRACHEA = "Lee et al. 1988, J Korean Radiol Soc 24:265, CT of 100 adults; mean of both sexes"
_GLOTTIS = "CT of 100 adults (tool for selection of endotracheal tubes): narrowest level of the airway"
# Its volumes rise from 10 ml at N0 to 45 ml at N3, so they are read as primary and nodes together.
_CANADA = "set by hand so that primary and nodes together meet 298 patients of Vallieres et al. 2017, Sci Rep 7:10117"
_HPV = "682 oropharyngeal carcinomas, Head Neck 2017;39:1524"


@dataclass(frozen=True, slots=True)
class Neck:
    """Sizes of the neck, of the tumours, and of the regions of reference.

    Args:
        All: See the fields; a spread is the standard deviation of the natural logarithm.

    Raises:
        ConfigError: A value is outside its bounds or contradicts another.
    """

    # The patient.
    circumference_mm: float = number(375.0, "mm", "girth of the neck at the hyoid", _CIRCUMFERENCE, low=250, high=550)
    size_spread: float = number(
        0.08,
        "1",
        "spread of all lengths of a neck together",
        _CIRCUMFERENCE + "; half their distance",
        low=0,
        high=0.15,
    )
    outline_spread: float = number(
        0.04,
        "1",
        "spread of width and of depth at equal size",
        "chosen: necks differ in shape as well",
        low=0,
        high=0.15,
    )
    fat_mm: float = number(6.0, "mm", "median thickness of the fat under the skin", "chosen", above=0, high=15)
    fat_spread: float = number(0.35, "1", "spread of the thickness of the fat", "chosen", low=0, high=0.6)
    # Spine and jaw.
    vertebra_width_mm: float = number(23.8, "mm", "width of a cervical vertebral body", _SPINE, above=10, high=35)
    vertebra_depth_mm: float = number(16.5, "mm", "depth of a cervical vertebral body", _SPINE, above=10, high=25)
    vertebra_pitch_mm: float = number(
        18.0,
        "mm",
        "height of a vertebra with its disc",
        "adult cervical spine of 120 to 130 mm, C1 to C7 (Roche)",
        above=10,
    )
    disc_mm: float = number(5.0, "mm", "height of a disc", "chosen", above=0, high=8)
    cord_width_mm: float = number(14.0, "mm", "width of the spinal cord", _CORD, above=5, high=20)
    cord_depth_mm: float = number(8.7, "mm", "depth of the spinal cord", _CORD, above=3, high=14)
    mandible_mm: float = number(
        8.3,
        "mm",
        "thickness of the mandible",
        "Ueda et al. 2023, Tomography 9:1236: 11.2 mm at the chin, 5.4 at the angle",
        above=3,
        high=15,
    )
    # Vessels.
    common_carotid_mm: float = number(6.3, "mm", "diameter of the common carotid artery", _CAROTID, above=3, high=10)
    internal_carotid_mm: float = number(4.9, "mm", "diameter of the internal carotid artery", _CAROTID, above=2, high=9)
    external_carotid_mm: float = number(4.4, "mm", "diameter of the external carotid artery", "chosen", above=2, high=9)
    carotid_bulb_mm: float = number(
        7.6, "mm", "diameter of the carotid sinus", "Baz et al. 2021, Medicina 57:832", above=3, high=12
    )
    carotid_spread: float = number(0.14, "1", "spread of the diameters of arteries", _CAROTID, low=0, high=0.3)
    bifurcation_mm: float = number(
        14.0, "mm", "height of the bifurcation above the hyoid", _LANDMARKS + ": C3", low=-20, high=35
    )
    bifurcation_sd_mm: float = number(
        8.0, "mm", "its standard deviation", "chosen below the 12 mm of that study", low=0
    )
    jugular_width_mm: float = number(14.2, "mm", "width of the internal jugular vein", _JUGULAR, above=6, high=22)
    jugular_area_mm2: float = number(
        100.0, "mm2", "cross-section of the right internal jugular vein", _JUGULAR, above=30
    )
    jugular_left: float = number(
        0.82, "1", "cross-section of the left internal jugular vein over that of the right", _JUGULAR, above=0.3, high=3
    )
    jugular_spread: float = number(0.25, "1", "spread of its cross-section", "chosen", low=0, high=0.5)
    # Airway, muscles and glands.
    pharynx_width_mm: float = number(22.0, "mm", "width of the oropharyngeal airway", "chosen", above=6, high=40)
    pharynx_depth_mm: float = number(12.0, "mm", "depth of the oropharyngeal airway", "chosen", above=4, high=25)
    glottis_width_mm: float = number(11.3, "mm", "width of the airway at the glottis", _GLOTTIS, above=4, high=25)
    glottis_area_mm2: float = number(170.0, "mm2", "cross-section of the airway at the glottis", _GLOTTIS, above=40)
    trachea_width_mm: float = number(16.5, "mm", "width of the trachea", _TRACHEA, above=8, high=27)
    trachea_depth_mm: float = number(17.2, "mm", "depth of the trachea", _TRACHEA, above=8, high=27)
    airway_spread: float = number(0.12, "1", "spread of the lengths of the airway", "chosen", low=0, high=0.3)
    sternocleidomastoid_mm2: float = number(
        512.0, "mm2", "cross-section of a sternocleidomastoid muscle", "Stemper et al. 2010, MRI", above=100, high=900
    )
    parotid_ml: float = number(
        25.3, "ml", "volume of a parotid gland", "Medbery et al. 2000, MRI of 16 patients, median", above=5, high=60
    )
    submandibular_ml: float = number(8.1, "ml", "volume of a submandibular gland", "CT of 130 adults", above=2, high=20)
    # Tumours.
    primary_median_ml: tuple[float, ...] = number(
        (18.0, 14.0, 7.0, 16.0),
        "ml",
        f"median volume of a primary without HPV, {_EACH}",
        _CANADA + "; oral cavity chosen, it is not in them",
        above=0,
        high=100,
    )
    primary_spread: tuple[float, ...] = number(
        (0.95, 0.95, 1.1, 0.95), "1", f"spread of the volume of a primary, {_EACH}", _CANADA, low=0, high=1.5
    )
    hpv_primary: float = number(
        0.67,
        "1",
        "volume of a primary with HPV over that of one without",
        _CANADA + "; smaller in " + _HPV,
        above=0,
        high=2,
    )
    base_of_tongue: float = number(
        0.45,
        "1",
        "share of oropharyngeal primaries in the base of tongue, else the tonsil",
        "89 base of tongue, 109 tonsil of 205 patients treated 2003 to 2010 (JAMA Otolaryngol, retropharyngeal nodes)",
        low=0,
        high=1,
    )
    nodes_mean: tuple[float, ...] = number(
        (1.17, 1.87, 0.67, 0.63),
        "1",
        f"mean of the Poisson number of involved nodes without HPV, cut at three, {_EACH}",
        f"share without nodes 31 % ({_HPV}), 2 of 13 and 23 of 45 (Vallieres et al. 2017), 53 % (Woolgar 1999)",
        low=0,
        high=5,
    )
    hpv_nodes_mean: float = number(2.2, "1", "the same with HPV", f"11 % without nodes ({_HPV})", low=0, high=5)
    node_median_ml: float = number(
        4.5, "ml", "median volume of an involved node without HPV", _CANADA, above=0, high=60
    )
    hpv_node_median_ml: float = number(
        5.5, "ml", "median volume of an involved node with HPV", _CANADA, above=0, high=60
    )
    node_spread: float = number(1.0, "1", "spread of the volume of a node", _CANADA, low=0, high=1.5)
    volume_correlation: float = number(
        0.3, "1", "correlation of the logarithms of the volumes of primary and node", "chosen", low=-0.99, high=0.99
    )
    largest_ml: float = number(
        150.0,
        "ml",
        "volumes above are set to this",
        "chosen: 1 % of Vallieres et al. 2017 are above 160 ml",
        above=1,
        high=400,
    )
    level_two: float = number(
        0.65, "1", "share of nodes at level II, else III", "chosen: first stations of all four places", low=0, high=1
    )
    contralateral: float = number(
        0.18,
        "1",
        "share of nodes on the other side",
        "Vallieres et al. 2017, Sci Rep 7:10117: 32 of 85 with N2a, N2b or N2c have N2c",
        low=0,
        high=1,
    )
    axes_spread: float = number(0.15, "1", "spread of the half axes of a tumour", "chosen", low=0, high=0.4)
    lobes: float = number(0.13, "1", "spread of the radius of a tumour from place to place", "chosen", low=0, high=0.3)
    lobe_mm: float = number(9.0, "mm", "distance over which the radius of a tumour varies", "chosen", low=3, high=40)
    margin_mm: float = number(
        6.0,
        "mm",
        "distance that a tumour keeps from the faces of the cube",
        "chosen: about the width of the point spread of PET",
        low=0,
        high=15,
    )
    largest_share: float = number(
        0.15,
        "1",
        "largest volume of one tumour over that of the cube",
        "chosen: leaves room for the neck",
        above=0,
        high=0.4,
    )
    # Regions of reference.
    clear_mm: float = number(
        10.0, "mm", "distance of the reference muscle from any tumour", "chosen: 1 cm is usual", low=0, high=20
    )
    muscle_ml: float = number(
        4.5,
        "ml",
        "volume of the reference muscle, in three ellipsoids",
        "chosen: three regions of 1 to 2 ml are usual",
        above=0.5,
        high=12,
    )
    blood_erosion_mm: float = number(
        1.0,
        "mm",
        "distance of the reference blood from the wall of its vessel, half a voxel at least",
        "chosen",
        low=0,
        high=3,
    )
    blood_clear_mm: float = number(
        5.0, "mm", "distance of the reference blood from any tumour", "chosen: beyond the spill of PET", low=0, high=15
    )
    blood_least_ml: float = number(
        1.0,
        "ml",
        "where less blood than this is so far away, all of the cube is the reference",
        "chosen",
        low=0,
        high=5,
    )

    def __post_init__(self) -> None:
        check(self)
        for name in ("primary_median_ml", "primary_spread", "nodes_mean"):
            if len(getattr(self, name)) != len(SUBSITES):
                raise ConfigError(
                    f"{name} of the phantom (Neck) has {len(getattr(self, name))} values for {len(SUBSITES)} subsites; "
                    f"give one for each, {_EACH}"
                )
        if self.disc_mm >= self.vertebra_pitch_mm / 2:
            raise ConfigError(
                f"disc_mm={self.disc_mm:g} of the phantom (Neck) leaves no vertebra in vertebra_pitch_mm="
                f"{self.vertebra_pitch_mm:g}; make the disc lower than half of it"
            )
        if self.internal_carotid_mm > self.carotid_bulb_mm:
            raise ConfigError(
                f"internal_carotid_mm={self.internal_carotid_mm:g} of the phantom (Neck) exceeds carotid_bulb_mm="
                f"{self.carotid_bulb_mm:g}; the artery narrows after its sinus, so make it smaller"
            )


_SCANS = "voxels of four planning CTs of OpenKBP (4 mm)"


@dataclass(frozen=True, slots=True)
class CtNumbers:
    """CT numbers of tissues at 120 kV without contrast medium.

    Args:
        All: See the fields. Spreads are standard deviations inside one patient.

    Raises:
        ConfigError: A value is outside the range of CT numbers.
    """

    air_hu: float = number(
        -990.0, "HU", "outside and in the airway", "air is -1000 by definition; chosen", low=-1024, high=-900
    )
    fat_hu: float = number(-95.0, "HU", "fat", _SCANS + ": peaks at -124 to -80", low=-150, high=-50)
    muscle_hu: float = number(52.0, "HU", "muscle", _SCANS + ": peaks at 20 to 55", low=20, high=90)
    bone_hu: float = number(480.0, "HU", "bone", _SCANS + ": mean 530, median 421 above 150", low=150, high=2000)
    blood_hu: float = number(42.0, "HU", "blood", "chosen: unclotted blood is 13 to 50", low=10, high=90)
    cord_hu: float = number(34.0, "HU", "spinal cord", _SCANS + ": medians 20 to 43", low=10, high=70)
    gland_hu: float = number(
        5.0,
        "HU",
        "salivary glands",
        "parotid -4 +- 24, submandibular 50 +- 16 (CT of 46 adults, 1999); by volume",
        low=-90,
        high=90,
    )
    soft_hu: float = number(40.0, "HU", "other soft tissue", _SCANS + ": median 40", low=10, high=70)
    tumour_hu: float = number(
        46.0, "HU", "primary tumour", "chosen: as muscle, it cannot be told without contrast", low=10, high=90
    )
    node_hu: float = number(38.0, "HU", "involved node", "chosen: a little below, many are cystic", low=0, high=90)
    soft_sd_hu: float = number(12.0, "HU", "texture of soft tissues", "chosen", low=0, high=60)
    fat_sd_hu: float = number(15.0, "HU", "texture of fat", "chosen", low=0, high=60)
    gland_sd_hu: float = number(22.0, "HU", "texture of glands", "parotid: 24 (CT of 46 adults, 1999)", low=0, high=60)
    bone_sd_hu: float = number(200.0, "HU", "texture of bone", _SCANS + ": 385 with cortex and teeth", low=0, high=500)
    air_sd_hu: float = number(6.0, "HU", "texture of air", "chosen", low=0, high=30)
    texture_mm: float = number(4.0, "mm", "correlation length of the texture", "chosen", low=1, high=30)

    def __post_init__(self) -> None:
        check(self)
