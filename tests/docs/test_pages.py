"""The documentation is true: links lead somewhere, tables match the code, templates are read, commands run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hypoxnet.data.manifest import parse_manifest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md", *ROOT.glob("data_manifests/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"`[^`]*`|```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, heading = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}, (
                f"{page.name}: {target}"
            )


def test_reference_tables_are_those_of_the_code(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "reference"))
    import generate

    assert (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8") == generate.settings_page()
    assert (ROOT / "docs/reference/maps.md").read_text(encoding="utf-8") == generate.maps_page()
    assert (ROOT / "docs/reference/quantities.md").read_text(encoding="utf-8") == generate.quantities_page()


@pytest.mark.parametrize("name", ["template.csv", "template_yes_no.csv", "phantom.csv"])
def test_templates_are_manifests_without_faults(name):
    records, faults = parse_manifest(ROOT / "data_manifests" / name)
    assert faults == ()
    assert len(records) >= 2


def test_settings_that_pages_name_exist():
    keys = set(re.findall(r"^\| `([\w.]+)`", (ROOT / "docs/reference/settings.md").read_text(), flags=re.MULTILINE))
    groups = {path.name for path in (ROOT / "configs").iterdir() if path.is_dir()}
    for page in PAGES:
        for block in re.findall(r"`([^`\n]+)`|^(python3 (?:train|infer)\.py.*)$", page.read_text(), flags=re.MULTILINE):
            for key in re.findall(r"(?:^|[\s'])([a-z_]+(?:\.[a-z_]+)*)=", " ".join(block)):
                is_command = "train.py" in "".join(block) or "infer.py" in "".join(block) or "." in key
                if is_command and not key.startswith("model.options"):
                    assert key in keys | groups | {"hydra"}, f"{page.name}: {key}"


@pytest.mark.slow
def test_the_commands_of_the_own_cohort_pages_run(tmp_path):
    """Check, train, train in folds, predict: as the pages say, on a cohort in a folder of the reader's."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(*command):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    hypoxnet = shutil.which("hypoxnet") or str(Path(sys.executable).parent / "hypoxnet")
    run(hypoxnet, "phantom", "test", str(tmp_path / "cohort"))
    manifest = tmp_path / "cohort" / "manifest.csv"
    run(hypoxnet, "check", str(manifest))
    small = [
        "training.epochs=1",
        "training.steps_per_epoch=0",
        "bootstrap=20",
        "model.features=[8,16]",
        "model.blocks=[1,1]",
        "model.deep_supervision=0",
    ]
    small += ["data.window=[16,16,16]", "data.spacing_mm=[4,4,4]"]
    train = [sys.executable, "train.py", f"data.manifest={manifest}", *small]
    run(*train, "name=mine", f"output={tmp_path}/mine")
    run(*train, "split=crossval", "split.folds=3", "label=gtv", f"output={tmp_path}/folds")
    run(
        *train,
        "label=fmiso_tbr_1p2",
        "label.reference_mask=MUSCLE",
        "data.channels=[T1W,R2STAR]",
        f"output={tmp_path}/ratio",
    )
    for name in ("mine", "folds", "ratio"):
        assert (tmp_path / name / "report.html").stat().st_size > 20_000
        run(
            sys.executable,
            "infer.py",
            f"bundle={tmp_path}/{name}/bundle",
            f"manifest={tmp_path}/{name}/manifest.csv",
            f"output={tmp_path}/{name}_predictions",
        )
        assert (tmp_path / f"{name}_predictions" / "predictions.csv").is_file()
