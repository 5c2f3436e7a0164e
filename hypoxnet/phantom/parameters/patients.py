"""Parameters of the patients: who they are before anything is imaged."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.parameters.base import check, number
from hypoxnet.phantom.parameters.treatment import VALLIERES

WARD = "274 patients of Ward et al. 2014, Br J Cancer 110:489 (grades as in their meeting abstract)"
KEYNOTE = "882 patients of KEYNOTE-048, Burtness et al. 2022, J Clin Oncol 40:2321"


@dataclass(frozen=True, slots=True)
class Site:
    """A subsite, and who has a tumour there.

    Args:
        name: Of the subsite.
    """

    name: str
    share: float = number(
        1.0, "1", "share of the patients, relative to the other subsites", f"203, 13 and 45 of {VALLIERES}", low=0.0
    )
    hpv_share: float = number(
        0.0,
        "1",
        "share of them that is HPV-positive",
        f"of those tested of {VALLIERES}: 76 of 95 in the oropharynx, 1 of 16 elsewhere; who was tested is not random",
        low=0.0,
        high=1.0,
    )
    age_years: float = number(63.0, "years", "mean age", f"fitted to {VALLIERES}", above=18.0, high=90.0)

    def __post_init__(self) -> None:
        check(self)


SITES = (
    Site("oropharynx", share=203.0, hpv_share=0.80, age_years=62.9),
    Site("hypopharynx", share=13.0, hpv_share=0.06, age_years=67.9),
    Site("larynx", share=45.0, hpv_share=0.06, age_years=66.4),
)


@dataclass(frozen=True, slots=True)
class Staging:
    """T and N categories from sizes."""

    t_edges_mm: tuple[float, float] = number(
        (20.0, 40.0),
        "mm",
        "largest diameter of T1 and of T2",
        "AJCC, 7th edition, oropharynx; used for every subsite",
        above=0.0,
    )
    n_edges_mm: tuple[float, float] = number(
        (30.0, 60.0), "mm", "largest diameter of an N1 and of an N2 node", "AJCC, 7th edition", above=0.0
    )
    elongation: float = number(
        1.25,
        "1",
        "largest diameter of a tumour over that of the sphere of the same volume",
        "chosen: that of a spheroid 1.4 times as long as wide",
        low=1.0,
        high=3.0,
    )
    diameter_spread: float = number(
        0.15,
        "1",
        "standard deviation of the logarithm of a largest diameter as read",
        "chosen: shapes and readers differ",
        low=0.0,
        high=1.0,
    )
    invasion_mm: float = number(
        65.0,
        "mm",
        "diameter at which half of the tumours invade what makes them T4",
        f"chosen: 16 % of {VALLIERES} are T4; their volumes are those of primary and nodes together, so no fit",
        above=0.0,
    )
    invasion_spread_mm: float = number(
        12.0, "mm", "scale of the logistic rise of that probability", "chosen: as invasion_mm", above=0.0
    )

    def __post_init__(self) -> None:
        check(self)
        for name in ("t_edges_mm", "n_edges_mm"):
            smaller, larger = getattr(self, name)
            if larger <= smaller:
                raise ConfigError(
                    f"{name} of the phantom run from {smaller:g} to {larger:g}; give the smaller diameter first"
                )


@dataclass(frozen=True, slots=True)
class Population:
    """Case-mix, covariates, and what differs between patients in their response."""

    sites: tuple[Site, ...] = SITES
    age_spread_years: float = number(
        9.4, "years", "standard deviation of age inside a subsite", f"fitted to {VALLIERES}", low=0.0, high=30.0
    )
    male_share: float = number(0.76, "1", "share of men", f"198 of 261 of {VALLIERES}", low=0.0, high=1.0)
    never_smoked_share: tuple[float, float] = number(
        (0.10, 0.35), "1", "share that never smoked: HPV-negative, HPV-positive", "chosen", low=0.0, high=0.49
    )
    pack_years: tuple[float, float] = number(
        (40.0, 10.0),
        "pack-years",
        "median over all patients: HPV-negative, HPV-positive",
        "40 and 10 in RTOG 0129: Gillison et al. 2012, J Clin Oncol 30:2102",
        above=0.0,
    )
    pack_years_spread: float = number(
        0.8, "1", "standard deviation of the logarithm among smokers", "chosen", above=0.0, high=3.0
    )
    hb_g_dl: tuple[float, float] = number(
        (12.8, 13.8),
        "g/dl",
        "mean haemoglobin: women, men",
        "median 13.5 of 125 patients: Dietz et al. 2000, HNO 48:655; a difference of 1.0 as between the limits of "
        "anaemia, 12 and 13",
        above=3.0,
        high=25.0,
    )
    hb_spread_g_dl: float = number(1.5, "g/dl", "standard deviation of haemoglobin", "chosen", above=0.0, high=5.0)
    ecog_shares: tuple[float, float, float] = number(
        (0.55, 0.35, 0.10), "1", "shares of ECOG 0, 1, 2 at 63 years", "chosen", low=0.0, high=1.0
    )
    ecog_per_age_year: float = number(
        0.03, "1/year", "shift of the latent performance per year of age, in standard deviations", "chosen"
    )
    chemo_share: float = number(
        0.86,
        "1",
        "share with chemotherapy at 63 years",
        f"fitted to {VALLIERES} by logistic regression on age",
        above=0.0,
        high=0.999,
    )
    chemo_per_age_year: float = number(
        -0.064, "1/year", "log odds of chemotherapy per year of age", f"fitted to {VALLIERES}"
    )
    til_negative: tuple[float, float] = number(
        (0.370, 0.684),
        "1",
        "two shapes of the beta distribution of lymphocytes, HPV-negative",
        f"fitted to {WARD}: 46.3 % below 20 %, 15.7 % above 80 % of the tumour",
        above=0.0,
    )
    til_positive: tuple[float, float] = number(
        (0.670, 0.337),
        "1",
        "two shapes of the beta distribution of lymphocytes, HPV-positive",
        f"fitted to {WARD}: 15 % below 20 %, 49 % above 80 % of the tumour",
        above=0.0,
    )
    cps_log_median: float = number(
        2.58,
        "1",
        "logarithm of the median PD-L1 combined positive score",
        f"fitted to {KEYNOTE}: 14.5 % below 1, 43.2 % from 20 on",
    )
    cps_spread: float = number(
        2.44, "1", "standard deviation of the logarithm of the score", f"fitted to {KEYNOTE}", above=0.0, high=5.0
    )
    til_cps_correlation: float = number(
        0.3,
        "1",
        "correlation of the normal scores of lymphocytes and PD-L1",
        "chosen: positive, as interferon induces PD-L1",
        low=-1.0,
        high=1.0,
    )
    alpha_per_gy: float = number(
        0.40,
        "1/Gy",
        "mean linear radiosensitivity of HPV-negative tumours, fully oxygenated, without chemotherapy",
        "calibrated on the whole chain to published control (docs/explanation/phantom.md). Estimates that hold hypoxia "
        "are lower: 0.24 (0.23-0.26), Pedicini et al. 2015",
        above=0.0,
        high=2.0,
    )
    alpha_spread_per_gy: float = number(
        0.02,
        "1/Gy",
        "standard deviation of radiosensitivity between patients",
        "chosen: less than the 0.08 between cell lines of Qi et al. 2012, for oxygen differs on top of it",
        low=0.0,
        high=1.0,
    )
    alpha_hpv_ratio: float = number(
        1.12,
        "1",
        "radiosensitivity of HPV-positive over HPV-negative tumours",
        "calibrated, see alpha_per_gy; it stands for all that makes them curable, not for the cells alone",
        above=0.0,
        high=5.0,
    )
    alpha_chemo_ratio: float = number(
        1.04,
        "1",
        "radiosensitivity with over without chemotherapy",
        "chosen: with concomitant chemotherapy the hazard ratio of death is 0.83, Lacas et al. 2021, Radiother Oncol "
        "156:281",
        above=0.0,
        high=5.0,
    )
    clonogens_per_ml: float = number(
        1e7, "1/ml", "median density of clonogens in living tumour", "chosen: 1e5 to 1e8 is in use", above=0.0
    )
    clonogens_log10_spread: float = number(
        0.3, "1", "standard deviation of its decimal logarithm between patients", "chosen", low=0.0, high=3.0
    )
    til_log10_clonogens: float = number(
        -1.0,
        "1",
        "change of that logarithm from no lymphocytes to 100 %",
        "chosen: direction of Nicolay et al. 2021, PMC8049369 (hazard ratio of failure 0.28, high against low), and of "
        f"{WARD} (0.24 of death of disease)",
        high=0.0,
        low=-6.0,
    )
    reoxygenation: float = number(
        0.6,
        "1",
        "mean over patients of the share of missing oxygen that returns during treatment",
        "calibrated with alpha_per_gy; hypoxia resolved within two weeks in 138 of 208 patients, Gui et al. 2024",
        above=0.0,
        high=0.99,
    )
    reoxygenation_concentration: float = number(
        12.0,
        "1",
        "sum of the two shapes of its beta distribution",
        "calibrated: hazard ratio of early response 0.321 (Nicolay et al. 2021)",
        above=0.0,
    )
    oxygen_per_g_dl: float = number(
        0.03,
        "dl/g",
        "relative change of vessel pressure per g/dl of haemoglobin below 13",
        "chosen; low haemoglobin goes with poor oxygenation: Becker et al. 2000, Int J Radiat Oncol Biol Phys 46:459",
        low=0.0,
        high=0.2,
    )
    oxygen_per_pack_year: float = number(
        0.001,
        "1/pack-year",
        "relative loss of vessel pressure per pack-year",
        "chosen, as marginal as in Becker et al. 2000; carboxyhaemoglobin: Overgaard et al. 1992, Int J Radiat Oncol "
        "Biol Phys 22:407",
        low=0.0,
        high=0.02,
    )
    oxygen_least: float = number(0.75, "1", "least relative vessel pressure", "chosen", above=0.0, high=1.0)
    staging: Staging = field(default_factory=Staging)

    def __post_init__(self) -> None:
        check(self)
        if not sum(site.share for site in self.sites) > 0:
            raise ConfigError(
                f"the shares of the {len(self.sites)} sites of the phantom add up to 0; give one of them more"
            )
        if abs(sum(self.ecog_shares) - 1.0) > 1e-6:
            raise ConfigError(
                f"ecog_shares={self.ecog_shares} of the phantom add up to {sum(self.ecog_shares):g}; make it 1"
            )


# The case-mix of trials of hypoxia: 16 of 40 HPV-positive in Mortensen et al. 2012, the patients of DAHANCA 24.
TRIAL_SITES = (
    Site("oropharynx", share=203.0, hpv_share=0.50, age_years=62.9),
    Site("hypopharynx", share=13.0, hpv_share=0.06, age_years=67.9),
    Site("larynx", share=45.0, hpv_share=0.06, age_years=66.4),
)
