"""From the command line to a typed configuration and a job, with Hydra; errors for the user end in exit status 2."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hypoxnet.describe import groups_of, help_text, settings_of
from hypoxnet.errors import ConfigError, HypoxNetError
from hypoxnet.files import disk_error
from hypoxnet.quantities import suggestion

if TYPE_CHECKING:
    from omegaconf import DictConfig

Config = TypeVar("Config")

HELP = {
    "train": (
        "HypoxNet: train on a cohort and evaluate on withheld patients.",
        """
        python train.py                                            the embedded phantom cohort
        python train.py data.manifest=cohort.csv                   your own cohort
        python train.py data.manifest=cohort.csv split=crossval    every patient withheld once
        python train.py experiment=sts_petmr                       a recorded set of choices
        python train.py THE_SAME_SETTINGS output=RUN_FOLDER        goes on with a run that was interrupted
        """,
    ),
    "infer": (
        "HypoxNet: apply a bundle to a cohort.",
        """
        python infer.py bundle=RUN_FOLDER/bundle manifest=cohort.csv output=predictions
        python infer.py bundle=DIR manifest=cohort.csv output=DIR inference.mirror=true inference.device=cpu
        """,
    ),
}


def to_typed(composed: DictConfig, schema: type[Config]) -> Config:
    """Check a composed configuration against its schema and return the dataclass.

    Merging into the schema again refuses a key that was added on the command line with `+` and that nothing reads.

    Raises:
        ConfigError: A key is unknown, a value has the wrong type, or a mandatory value is missing.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        typed = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.to_container(composed, resolve=True))
        )
    except OmegaConfBaseException as error:
        raise ConfigError(f"configuration: {str(error).splitlines()[0]}") from error
    assert isinstance(typed, schema)
    return typed


def to_yaml(config: object) -> str:
    """The resolved configuration as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def check_overrides(overrides: Sequence[str], config: object, groups: Mapping[str, Sequence[str]]) -> None:
    """Refuse what is misspelt before Hydra does, whose answer is about Hydra.

    Args:
        overrides: Arguments of the command line.
        config: The configuration with its defaults.
        groups: Groups and their choices.

    Raises:
        ConfigError: An argument is not KEY=VALUE, or names a setting, group or choice that does not exist.
    """
    keys = {setting.key: setting.default for setting in settings_of(config)}
    several = bool({"--multirun", "-m", "hydra.mode=MULTIRUN"} & set(overrides))
    for argument in overrides:
        if argument.startswith("-"):
            if argument.lstrip("-").partition("=")[0] in keys:
                raise ConfigError(f"{argument} has dashes; settings are written KEY=VALUE, without them")
            return  # Hydra's own options, which may have values of their own
        key, equals, value = argument.partition("=")
        key = key.lstrip("+~")
        if not equals:
            raise ConfigError(f"{argument} is not a setting; write KEY=VALUE, for example training.epochs=20")
        if key in groups:
            if value not in {*groups[key], "null"} and "," not in value:
                raise ConfigError(
                    f"{key}={value} is not known, choices are {', '.join(groups[key])}{suggestion(value, groups[key])}"
                )
        elif key.startswith("hydra/"):
            continue  # a group of Hydra's own
        elif key not in keys and not any(key.startswith(f"{parent}.") for parent in (*keys, "hydra")):
            raise ConfigError(f"{key} is not a setting{suggestion(key, [*keys, *groups])} (--help lists every setting)")
        is_text = key in keys and isinstance(reduce(getattr, key.split("."), config), str)
        _check_value(argument, default=keys.get(key, ""), is_text=is_text, several=several)


def _check_value(argument: str, *, default: str, is_text: bool, several: bool) -> None:
    """Refuse a value in which Hydra sees signs of its grammar, where they are part of a name."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, _, value = argument.partition("=")
    quoted = (
        f"{argument} has a sign that stands in a value only within quotes, such as = , ( [ or ü; quote it once more: "
        f"{_quoted(key, value)}"
    )
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        like = (
            f"; write it as its default is written, {key}={default}" if default else f" ({str(error).splitlines()[0]})"
        )
        raise ConfigError(quoted if is_text else f"{argument} cannot be read{like}") from error
    if is_text and isinstance(override.value(), list | dict):
        raise ConfigError(
            f"{argument} names several, a run takes one; join them: hypoxnet export A B --to safetensors --output "
            "JOINED, then bundle=JOINED"
            if key == "bundle"
            else quoted
        )
    if override.is_sweep_override() and not several:
        each = "--multirun does a run for each of several"
        raise ConfigError(f"{quoted} ({each})" if is_text else f"{argument} has more than one value; {each}")


def _quoted(key: str, value: str) -> str:
    """As it is typed into a shell, with quotes for the shell and quotes for Hydra."""
    bare = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
    if set(bare) & set("'\"$`!\\"):
        escaped = bare.replace('"', '\\"')
        return shlex.quote(f'{key}="{escaped}"')
    return f"\"{key}='{bare}'\""


def refuse_without_launcher(arguments: Sequence[str]) -> None:
    """Refuse a launcher of another package before Hydra does, whose answer lists what it has.

    Raises:
        ConfigError: The launcher is asked for and not installed.
    """
    asked = next((argument for argument in arguments if argument.startswith("hydra/launcher=submitit")), None)
    if asked is None:
        return
    try:
        import hydra_plugins.hydra_submitit_launcher  # noqa: F401 (only whether it is there)
    except ImportError as error:
        raise ConfigError(
            f"{asked} needs hydra-submitit-launcher, which is not installed; install it with: "
            "pip install 'hypoxnet[cluster]'"
        ) from error


def launch(configs: Path, name: str, schema: type[Config], job: Callable[[Config], int]) -> None:
    """Compose, check and run; ends the process with the job's exit status, 2 for bad input.

    Args:
        configs: Folder of the Hydra groups.
        name: Primary configuration, `train` or `infer`.
        schema: Dataclass of the whole configuration.
        job: What to run; returns the exit status.
    """
    groups = groups_of(configs) if name == "train" else {}
    if set(sys.argv[1:]) & {"--help", "-h"}:
        print(help_text(*HELP[name], schema(), groups))
        return
    try:
        check_overrides(sys.argv[1:], schema(), groups)
        refuse_without_launcher(sys.argv[1:])
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    sys.exit(_compose_and_run(configs, name, schema, job))


def _compose_and_run(configs: Path, name: str, schema: type[Config], job: Callable[[Config], int]) -> int:
    from hydra import main
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    several = bool(set(sys.argv[1:]) & {"--multirun", "-m"})
    status = 2  # Hydra ends the process with 1 when it cannot compose: for the user that is bad input

    def run(composed: DictConfig) -> None:
        nonlocal status
        status = 1
        try:
            status = job(to_typed(composed, schema))
        except HypoxNetError as error:
            print(error, file=sys.stderr)
            status = 2
        except OSError as error:
            refused = disk_error(error, Path(str(composed.get("output") or ".")))
            if refused is None:
                raise
            print(refused, file=sys.stderr)
            status = 2
        except KeyboardInterrupt:
            print("interrupted; the same command with the same output folder goes on", file=sys.stderr)
            status = 130
        if several and status:
            # The only thing that comes back from a job on another machine.
            raise ConfigError(f"a job of several ended with status {status}; its own words stand above or in its log")

    started = main(version_base="1.3", config_path=str(configs.resolve()), config_name=name)(run)
    if several:
        return _run_several(started)
    try:
        started()
    except SystemExit as stop:
        return status if stop.code else 0
    return 0 if set(sys.argv[1:]) & {"--cfg", "-c", "--info", "-i", "--hydra-help"} else status


def _run_several(started: Callable[[], object]) -> int:
    """Run every job of a `--multirun`, wherever its launcher puts them; 0 when all ended well."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here in place of a page from Hydra
    try:
        started()
    except HypoxNetError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; jobs that a scheduler runs go on", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 (of Hydra, its launcher, or a job whose process was killed)
        print(f"{' '.join(str(error).split())}; the same command goes on", file=sys.stderr)
        return 2
    return 0
