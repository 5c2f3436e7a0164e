"""A training step with loading and augmentation, beside the same step on a fixed random tensor.

    python benchmarks/training_step.py                two minutes on two cores

The network, window, batch and augmentation are those of the default run; the cohort is the phantom's first cases,
already prepared and in memory, as in every epoch but the first. Both kinds of step take turns, so that a busy machine
slows both alike. Prints JSON: medians of several rounds, and their ratio.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import psutil
import torch

from hypoxnet.cases import Batch
from hypoxnet.data.config import DataConfig
from hypoxnet.data.datamodule import HypoxiaDataModule
from hypoxnet.data.manifest import read_manifest
from hypoxnet.data.plan import plan_settings
from hypoxnet.data.splits import Split
from hypoxnet.jobs.run_folder import processor_name
from hypoxnet.losses.config import LossConfig
from hypoxnet.models.config import ModelConfig, OutcomeConfig
from hypoxnet.phantom.cohort import make_cohort
from hypoxnet.training.config import TrackingConfig, TrainingConfig
from hypoxnet.training.module import HypoxModule
from hypoxnet.training.run import TrainingSetup, build_module, model_spec
from hypoxnet.transforms.config import AugmentConfig, LabelConfig

SMALL = {"features": [24, 48, 96], "blocks": [1, 1, 1], "deep_supervision": 1, "fold": 2}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=TrainingConfig().batch_size)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def step(module: HypoxModule, optimiser: torch.optim.Optimizer, batch: Batch) -> None:
    """Forward, loss, backward, update."""
    optimiser.zero_grad()
    logits = module.model(
        batch.images, batch.presence, batch.tumour, batch.tumour_known, batch.covariates, batch.covariates_known
    )
    module.loss(logits, batch, inside_tumour=module.inside_tumour)["total"].backward()
    optimiser.step()
    if batch.images.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        records = read_manifest(make_cohort("demo", Path(folder) / "cohort", cases=arguments.cases))
        training = TrainingConfig(batch_size=arguments.batch_size)
        setup = TrainingSetup(
            DataConfig(cache=folder),
            AugmentConfig(),
            ModelConfig(**SMALL),
            OutcomeConfig(),
            LossConfig(),
            training,
            TrackingConfig(),
        )
        settings = plan_settings(records, setup.data, LabelConfig(), edges_months=setup.outcome.edges_months)
        loader = HypoxiaDataModule(
            Split(records, (), ()), settings, setup.data, batch_size=training.batch_size, steps_per_epoch=0, seed=0
        )
        module = build_module(model_spec(settings, setup), settings, setup, total_steps=1).to(arguments.device)
        optimiser = torch.optim.AdamW(module.model.parameters(), lr=1e-4)
        fixed = next(iter(loader.train_dataloader())).to(arguments.device)
        generator = torch.Generator(device=arguments.device).manual_seed(0)
        whole, alone = [], []
        for _ in range(arguments.rounds + 1):
            begin = time.perf_counter()
            steps = 0
            for batch in loader.train_dataloader():
                assert module.augmentation is not None
                step(module, optimiser, module.augmentation(batch.to(arguments.device), generator))
                steps += 1
            whole.append((time.perf_counter() - begin) / steps)
            begin = time.perf_counter()
            for _ in range(steps):
                step(module, optimiser, fixed)
            alone.append((time.perf_counter() - begin) / steps)
    # The first round warms up.
    ratios = [a / b for a, b in zip(whole[1:], alone[1:], strict=True)]
    result = {
        "with_loading_and_augmentation_s": round(statistics.median(whole[1:]), 4),
        "on_a_fixed_batch_s": round(statistics.median(alone[1:]), 4),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "batch_size": training.batch_size,
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else processor_name(),
        "threads": torch.get_num_threads(),
        "cores": psutil.cpu_count(),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
