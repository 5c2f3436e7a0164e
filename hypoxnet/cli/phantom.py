"""`hypoxnet phantom`: cohorts of the digital reference object."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

PRESETS_IN_WORDS = """presets:
  demo             small and fast: the embedded cohort of the first training run
  standard         600 patients of four hospitals, all channels, some absent
  longitudinal     each patient before treatment, in week 2 and in week 5
  test_retest      each patient twice within days, untreated
  dose_escalation  a randomised trial in silico: 70 Gy against 77 Gy to the hypoxic volume
  test             a dozen small ones, for tests

examples:
  hypoxnet phantom --preset demo --output phantoms
  hypoxnet phantom --preset standard --output standard --workers 8
  hypoxnet phantom --preset test --output small --cases 4 --raw --format dicom
  hypoxnet phantom --open-kbp pt_170 --output real_ct --cases 4
"""


def add_phantom(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    phantom = verbs.add_parser(
        "phantom",
        help="make a cohort of tumours whose oxygen is known",
        description="Write a cohort of the digital reference object: images, masks, manifest.csv, outcomes.csv, the "
        "truth of every patient, and a datasheet of every parameter with its source. A cohort that was begun in the "
        "folder is finished; the same seed gives the same files, whatever the number of workers.",
        epilog=PRESETS_IN_WORDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    phantom.add_argument("place", nargs="*", metavar="PRESET OUTPUT", help="the same as --preset and --output")
    phantom.add_argument("--preset", help="which cohort (default: demo)")
    phantom.add_argument("--output", type=Path, help="folder (default: phantom_PRESET)")
    phantom.add_argument("--seed", type=int, help="another seed than the preset's")
    phantom.add_argument("--cases", type=int, help="another number of patients than the preset's")
    phantom.add_argument("--workers", type=int, default=0, help="processes; 0 is one per core (default)")
    phantom.add_argument("--raw", action="store_true", help="write the raw MR series as well (RAW_R2STAR, RAW_DCE ...)")
    phantom.add_argument("--truth-maps", action="store_true", help="write maps of everything behind the images")
    phantom.add_argument("--without-noise", action="store_true", help="scanners without noise: resolution only")
    phantom.add_argument(
        "--open-kbp",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="real planning CTs with dose in the OpenKBP format as anatomy; patients take them in turn",
    )
    phantom.add_argument(
        "--format",
        choices=("nifti", "dicom"),
        default="nifti",
        help="dicom: each visit also as a DICOM study in OUTPUT/dicom, to be read by `hypoxnet import`",
    )
    phantom.set_defaults(run=run_phantom)


def run_phantom(options: argparse.Namespace) -> int:
    """Make the cohort and say where its manifest is."""
    from hypoxnet.errors import ConfigError
    from hypoxnet.jobs.phantom import PhantomRequest, make_phantoms

    named = dict(zip(("preset", "output"), options.place, strict=False))
    if len(options.place) > 2:
        raise ConfigError(f"{options.place[2]} is one word too many; give a preset and a folder")
    for name in named:
        if getattr(options, name) is not None:
            raise ConfigError(f"{named[name]} and --{name} {getattr(options, name)} name the {name} twice; keep one")
    preset = options.preset or named.get("preset", "demo")
    output = options.output or Path(named.get("output", f"phantom_{preset}"))
    request = PhantomRequest(
        preset=preset,
        output=output,
        seed=options.seed,
        cases=options.cases,
        workers=options.workers,
        raw=options.raw,
        truth_maps=options.truth_maps,
        noise=not options.without_noise,
        open_kbp=tuple(options.open_kbp or ()),
        dicom=options.format == "dicom",
    )
    manifest = make_phantoms(request, progress=sys.stderr.isatty())
    print(manifest)
    return 0
