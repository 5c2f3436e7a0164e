"""Parameters of the treatment, of its radiobiology, and of the follow-up."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypoxnet.errors import ConfigError
from hypoxnet.phantom.parameters.base import check, number

VALLIERES = "298 patients of Vallieres et al. 2017, Sci Rep 7:10117 (TCIA Head-Neck-PET-CT)"


@dataclass(frozen=True, slots=True)
class Treatment:
    """Radiotherapy: dose, time, and what it does to a clonogen."""

    dose_gy: float = number(
        70.0,
        "Gy",
        "prescribed to primary and involved nodes: their mean",
        "70 Gy in 35 fractions: arm of DAHANCA 24 and Welz et al. 2017, Radiother Oncol, 10.1016/j.radonc.2017.04.004",
        above=0.0,
        high=120.0,
    )
    fractions: int = number(35, "1", "number of fractions", "as dose_gy", low=1, high=100)
    fractions_per_week: int = number(
        5, "1/week", "fractions on as many days of a week, one a day", "chosen: five; DAHANCA gives six", low=1, high=7
    )
    boost_gy: float = number(
        77.0,
        "Gy",
        "prescribed to the boosted voxels, in the same fractions: their mean",
        "77 Gy to the hypoxic volume: Welz et al. 2017, Radiother Oncol, 10.1016/j.radonc.2017.04.004",
        above=0.0,
        high=130.0,
    )
    elective_gy: float = number(
        56.0,
        "Gy",
        "prescribed to the elective neck: its mean",
        "56 Gy: ESCALOX, Radiat Oncol 2017;12:45, 10.1186/s13014-017-0776-1",
        low=0.0,
        high=120.0,
    )
    target_margin_mm: float = number(
        9.0,
        "mm",
        "gross tumour to the edge that still receives 95 % of its dose",
        "5 mm to CTV-P1: Gregoire et al. 2018, Radiother Oncol 126:3; 4 mm for set-up: chosen",
        low=0.0,
        high=40.0,
    )
    elective_margin_mm: float = number(
        15.0,
        "mm",
        "reach of the elective neck from the great vessels, and from the gross tumour",
        "chosen: nodal levels II to IV lie round the carotid and the jugular vein",
        low=0.0,
        high=60.0,
    )
    penumbra_mm: float = number(
        8.0,
        "mm",
        "standard deviation of the Gaussian fall-off of dose round the targets",
        "fitted to 4 plans of OpenKBP (Babier et al. 2021, Med Phys 48:5549): 6, 8, 9 and 10 mm within 20 mm of the "
        "targets, with 9 to 13 Gy root mean square left; one 6 MV field is steeper, many fields are not",
        above=0.0,
        high=20.0,
    )
    boost_penumbra_mm: float = number(
        4.0,
        "mm",
        "standard deviation of the fall-off of a boost inside the target",
        "chosen: steeper than round the targets, for it is a tenth of the dose; 6.7 mm from 80 to 20 %",
        above=0.0,
        high=20.0,
    )
    alpha_beta_gy: float = number(
        10.0,
        "Gy",
        "linear over quadratic sensitivity of the tumour",
        "10.6 (8.4-12.6) Gy: Pedicini et al. 2015, Clinical radiobiology of head and neck cancer",
        above=0.0,
    )
    oer_max: float = number(
        3.0,
        "1",
        "oxygen enhancement of full oxygen over anoxia (m)",
        "m = 3, as in the public code of RadioGx; form of Wouters and Brown 1997, Radiat Res 147:541",
        low=1.0,
        high=5.0,
    )
    oer_half_mmhg: float = number(
        3.0,
        "mmHg",
        "pO2 of half the enhancement (K)",
        "K = 3, as oer_max",
        above=0.0,
    )
    sensitiser_ratio: float = number(
        1.0,
        "1",
        "sensitisation of anoxic cells by a hypoxic sensitiser; 1 is none",
        "chosen: about 1.3 for nimorazole; its effect in patients: DAHANCA 5, Radiother Oncol 1998;46:135",
        low=1.0,
        high=3.0,
    )
    repopulation_start_days: float = number(
        28.0,
        "days",
        "time after which clonogens repopulate",
        "chosen: 28 days is customary; Pedicini et al. 2015 estimate 19.2 (15.1-23.3)",
        low=0.0,
    )
    repopulation_doubling_days: float = number(
        3.5,
        "days",
        "doubling time of clonogens from then on",
        "3.5 (3.1-3.9) days: Pedicini et al. 2015; 4.0 (1.8): Qi et al. 2012, Cancers 4:566",
        above=0.0,
    )
    viable_half_mmhg: float = number(
        1.2,
        "mmHg",
        "pO2 at which half of the cells live",
        "1.2 (0.1-4.9): Warren and Partridge 2016, PMC5717515",
        low=0.0,
    )
    oxygenation_weeks: tuple[float, ...] = number(
        (0.0, 2.0, 5.0),
        "weeks",
        "times, from the first fraction, of the oxygenations that govern the fractions",
        "weeks 0, 2, 5: imaging of Wiedenmann et al. 2015 (Freiburg)",
        low=0.0,
        high=20.0,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.sensitiser_ratio > self.oer_max:
            raise ConfigError(
                f"sensitiser_ratio={self.sensitiser_ratio:g} of the phantom exceeds oer_max={self.oer_max:g}; a "
                "sensitiser cannot make anoxic cells more sensitive than oxygen does, lower it"
            )
        if not self.elective_gy <= self.dose_gy <= self.boost_gy:
            raise ConfigError(
                f"elective_gy={self.elective_gy:g}, dose_gy={self.dose_gy:g} and boost_gy={self.boost_gy:g} of the "
                "phantom must rise in this order; raise boost_gy or lower elective_gy"
            )
        weeks = self.oxygenation_weeks
        if not weeks or any(later <= sooner for sooner, later in pairwise(weeks)):
            raise ConfigError(f"oxygenation_weeks={weeks} of the phantom must rise; give each week once, in order")

    @property
    def overall_days(self) -> int:
        """First to last fraction, days.

        Example:
            >>> Treatment().overall_days, Treatment(fractions_per_week=6).overall_days
            (46, 39)
        """
        return self.fraction_days()[-1]

    def fraction_days(self) -> list[int]:
        """Day of every fraction, the first on day 0, a Monday."""
        per = self.fractions_per_week
        return [7 * (number // per) + number % per for number in range(self.fractions)]


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What happens after treatment, and how long it is watched."""

    detectable_cells: float = number(
        1e9,
        "1",
        "clonogens of a recurrence that is found",
        "chosen: about 1 ml of tumour",
        above=1.0,
    )
    regrowth_doubling_months: float = number(
        0.65,
        "months",
        "median over patients of the doubling time of a recurrence, with cell loss",
        "chosen: it takes thirty clonogens 16.2 months to a size that is found; the 43 locoregional failures of "
        f"{VALLIERES} came at a median of 16.1 months from the start of radiotherapy",
        above=0.0,
    )
    regrowth_spread: float = number(
        0.7,
        "1",
        "standard deviation of its logarithm between patients",
        f"0.75 is that of the times of the 43 locoregional failures of {VALLIERES}, in which survivors vary too",
        low=0.0,
        high=3.0,
    )
    earliest_months: float = number(
        3.0,
        "months",
        "first examination that can find a failure",
        "chosen: response is judged three months after treatment",
        low=0.0,
    )
    distant_24_months: float = number(
        0.025,
        "1",
        "cumulative hazard of distant metastasis at 24 months: N1, 20 ml, no persistent hypoxia",
        f"fitted to {VALLIERES}: 0.041 over all, divided by 1.63, the mean effect of persistent hypoxia in a quarter",
        low=0.0,
    )
    distant_shape: float = number(
        0.90,
        "1",
        "Weibull shape of the time to distant metastasis",
        f"fitted to {VALLIERES}: 38 dated metastases",
        above=0.0,
        high=10.0,
    )
    distant_per_n: float = number(
        0.47,
        "1",
        "log hazard of distant metastasis per N category",
        f"fitted to {VALLIERES}, together with volume",
    )
    distant_per_log_ml: float = number(
        0.77,
        "1",
        "log hazard of distant metastasis per logarithm of the gross tumour volume",
        f"fitted to {VALLIERES}, together with N",
    )
    distant_persistent_ratio: float = number(
        3.51,
        "1",
        "hazard ratio of distant metastasis with persistent hypoxia",
        "3.51: Gui et al. 2024, 281 patients, as Huang et al. 2025, Theranostics, quote it",
        above=0.0,
    )
    persistent_mmhg: float = number(
        10.0,
        "mmHg",
        "pO2 below which tissue counts towards persistent hypoxia",
        "chosen: the limit of the cohort's label; 5 mmHg made 4 to 9 % of the simple tumours of "
        "benchmarks/phantom_outcome.py persistent, where Gui et al. 2024 found 25 %",
        above=0.0,
    )
    dead_mmhg: float = number(
        1.2,
        "mmHg",
        "pO2 below which tissue counts as dead, not as hypoxic",
        "half-maximal necrosis at 1.2 (0.1-4.9): Warren and Partridge 2016, PMC5717515",
        low=0.0,
    )
    persistent_ml: float = number(
        1.5,
        "ml",
        "hypoxic volume from which on a tumour is hypoxic, before and during treatment",
        "1.5 ml on PET: Zschaeck et al. 2020, 153 patients",
        above=0.0,
    )
    death_per_year: float = number(
        0.0077,
        "1/year",
        "hazard of death without any failure: 63 years, 20 pack-years, ECOG 0",
        f"fitted to {VALLIERES}: 0.0108 over all, divided by 1.4, the mean effect of smoking and performance state",
        low=0.0,
    )
    death_per_age_year: float = number(
        0.086, "1/year", "log hazard of that death per year of age", f"fitted to {VALLIERES}"
    )
    death_per_pack_year: float = number(
        0.01,
        "1/pack-year",
        "log hazard of that death per pack-year",
        "1.01: Gillison et al. 2012, J Clin Oncol 30:2102",
    )
    death_per_ecog: float = number(
        0.4, "1", "log hazard of that death per step of ECOG performance status", "chosen: direction only"
    )
    death_after_locoregional_per_year: float = number(
        0.26, "1/year", "hazard of death that a locoregional failure adds", f"fitted to {VALLIERES}", low=0.0
    )
    death_after_distant_per_year: float = number(
        0.60, "1/year", "hazard of death that distant metastasis adds", f"fitted to {VALLIERES}", low=0.0
    )
    closing_months: tuple[float, float] = number(
        (22.0, 72.0),
        "months",
        "the study closes at a time uniform between these, for each patient by the day of entry",
        "chosen, with lost_per_year: 5, 50 and 95 % of the survivors are followed for 20, 44 and 69 months, those of "
        f"{VALLIERES} for 23, 44 and 85",
        above=0.0,
    )
    lost_per_year: float = number(0.03, "1/year", "hazard of loss to follow-up", "chosen, see closing_months", low=0.0)

    def __post_init__(self) -> None:
        check(self)
        if self.dead_mmhg >= self.persistent_mmhg:
            raise ConfigError(
                f"dead_mmhg={self.dead_mmhg:g} of the phantom must lie below persistent_mmhg={self.persistent_mmhg:g}; "
                "no tissue would count as hypoxic, lower it"
            )
        first, last = self.closing_months
        if last < first:
            raise ConfigError(
                f"closing_months of the phantom run from {first:g} to {last:g}; give the earlier time first"
            )
