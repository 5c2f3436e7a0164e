import re
import subprocess
import sys
from pathlib import Path

import pytest

from hypoxnet.describe import groups_of, settings_of
from hypoxnet.jobs.config import TrainJobConfig

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_loads_neither_torch_nor_hydra():
    check = (
        "import sys, runpy; sys.argv = ['train.py', '--help']\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
        "print(sorted({'torch', 'monai', 'lightning', 'hydra'} & set(sys.modules)), file=sys.stderr)"
    )
    done = run("-c", check)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    assert "data.manifest" in done.stdout


def test_every_setting_has_a_meaning():
    missing = [s.key for s in settings_of(TrainJobConfig()) if not s.meaning]
    assert missing == []


def test_the_examples_of_the_options_compose_as_they_are_written():
    (options,) = [s for s in settings_of(TrainJobConfig()) if s.key == "model.options"]
    examples = re.findall(r"`(model=\S+ \+?model\.options\.[^`]+)`", options.meaning)
    assert len(examples) == 2
    for example in examples:
        done = run("train.py", *example.split(), "--cfg", "job")
        name, value = example.split("options.")[1].split("=")
        assert done.returncode == 0, done.stderr
        assert f"    {name}: {value}\n" in done.stdout


def test_groups_are_listed_with_their_choices():
    groups = groups_of(ROOT / "configs")
    assert "crossval" in groups["split"]
    assert "sts_petmr" in groups["experiment"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.spacing=3", "data.spacing is not a setting; did you mean data.spacing_mm?"),
        ("+data.spacing=3", "data.spacing is not a setting; did you mean data.spacing_mm?"),
        ("--data.manifest=x", "--data.manifest=x has dashes; settings are written KEY=VALUE"),
        ("data.manifest", "data.manifest is not a setting; write KEY=VALUE"),
        ("label=gvt", "label=gvt is not known, choices are faza_tmr_1p4"),
        ("training.epochs=many", "many"),
        ("training.epochs=0", "training.epochs is 0, it must be at least 1"),
        ("data.window=[32,32]", "data.window is [32, 32], it must be three positive numbers"),
        ("label=nothing", "nothing"),
        ("model.features=[8,16]", "model.features has 2 levels"),
    ],
)
def test_bad_setting_is_one_sentence_and_status_2(override, sentence):
    done = run("train.py", override)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_label_group_replaces_the_default_regions():
    done = run("train.py", "label=gtv", "--cfg", "job")
    assert done.returncode == 0
    assert "gtv:" in done.stdout
    assert "hsv:" not in done.stdout


CHOICES = [
    f"{group.name}={choice.stem}"
    for group in sorted((ROOT / "configs").iterdir())
    if group.is_dir()
    for choice in sorted(group.glob("*.yaml"))
]
# What a choice cannot do without.
NEEDED = {"split=temporal": ["split.test_from=2018"], "split=external": ["split.test_manifest=other.csv"]}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_every_group_composes(choice):
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore

    from hypoxnet.config.launch import to_typed
    from hypoxnet.jobs.config import TrainJobConfig

    ConfigStore.instance().store(name="train_schema", node=TrainJobConfig)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        chosen = [choice, "output=x", *NEEDED.get(choice, [])]
        assert isinstance(to_typed(compose("train", chosen), TrainJobConfig), TrainJobConfig)
