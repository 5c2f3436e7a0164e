import errno
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from hypoxnet.config.launch import check_overrides
from hypoxnet.describe import groups_of, settings_of
from hypoxnet.errors import ConfigError
from hypoxnet.jobs.config import InferJobConfig, TrainJobConfig

ROOT = Path(__file__).parents[2]
JOB = """
from pathlib import Path
from hypoxnet.config.launch import launch
from hypoxnet.jobs.config import InferJobConfig

def job(config):
    {job}

launch(Path("configs"), "infer", InferJobConfig, job)
"""


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
        ("data.window=[32,32", "data.window=[32,32 cannot be read; write it as its default is written, data.window="),
        ("training.seed=1,2", "training.seed=1,2 has more than one value; --multirun does a run for each of several"),
        ("label=gtv,gtvn", "label=gtv,gtvn has more than one value; --multirun does"),
    ],
)
def test_bad_setting_is_one_sentence_and_status_2(override, sentence):
    done = run("train.py", override)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def refusal(override, *others, config=None):
    with pytest.raises(ConfigError) as refused:
        check_overrides([override, *others], config or InferJobConfig(), {})
    return str(refused.value)


@pytest.mark.parametrize(
    "value", ["Ergebnisü", "Daten,1", "a=b", "a(1)", "a[1]", "[a]", "~/x", "it's ü", 'a "b" (2)', "a'"]
)
def test_a_path_that_is_grammar_is_refused_with_the_quotes_it_needs(value):
    said = refusal(f"output={value}")
    assert said.startswith(f"output={value} has a sign that stands in a value only within quotes")
    assert "\n" not in said
    (quoted,) = shlex.split(
        said.split("quote it once more: ")[1].removesuffix(" (--multirun does a run for each of several)")
    )
    check_overrides([quoted], InferJobConfig(), {})
    assert OverridesParser.create().parse_override(quoted).value() == value


def test_the_quotes_are_those_of_the_manual():
    assert refusal("output=Ergebnis, a=b (2)").endswith(": \"output='Ergebnis, a=b (2)'\"")
    assert "`\"output='Ergebnis, a=b (2)'\"`" in (ROOT / "docs" / "how-to" / "predict.md").read_text(encoding="utf-8")


def test_several_bundles_are_joined_first():
    assert refusal("bundle=[run/bundle,runB/bundle]") == (
        "bundle=[run/bundle,runB/bundle] names several, a run takes one; join them: "
        "hypoxnet export A B --to safetensors --output JOINED, then bundle=JOINED"
    )


def test_several_values_are_taken_with_multirun():
    check_overrides(["training.seed=1,2", "-m"], TrainJobConfig(), {})


def test_a_quoted_path_arrives_without_its_quotes():
    done = run("infer.py", "output='Ergebnis ü, a=b (2)'", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "output: Ergebnis ü, a=b (2)\n" in done.stdout


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (errno.ENOSPC, "the disk is full; what is finished stays, make space and the same command goes on"),
        (errno.EDQUOT, "your quota of the disk is used up; what is finished stays, make space"),
        (errno.EROFS, "this disk can only be read; give another folder to write to"),
        (errno.EACCES, "permission denied; ask its owner for the right, or give another place"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_what_a_disk_refuses_is_one_sentence_and_status_2(tmp_path, code, sentence, named):
    where = f", {str(tmp_path / '.part-1' / 'p')!r}" if named else ""
    job = f"raise OSError({code}, 'as the system says it'{where})"
    done = run("-c", JOB.format(job=job), f"output={tmp_path}/p")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"{tmp_path}: {sentence}")


def test_a_fault_of_the_program_keeps_its_place(tmp_path):
    done = run("-c", JOB.format(job="raise OSError('of a library')"), f"output={tmp_path}/p")
    assert done.returncode == 1
    assert "of a library" in done.stderr


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
