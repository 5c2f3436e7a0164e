"""The training job: cohort in; model, predictions for withheld patients, metrics and a report out."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from hypoxnet.bundle.read import read_bundle
from hypoxnet.bundle.schema import BundleSpec
from hypoxnet.bundle.write import write_bundle
from hypoxnet.cases import CaseRecord
from hypoxnet.data.manifest import read_manifest
from hypoxnet.data.phantom_cohort import phantom_manifest
from hypoxnet.data.plan import plan_settings
from hypoxnet.data.splits import Split, crossval_splits, holdout_split
from hypoxnet.errors import CaseError, ConfigError
from hypoxnet.files import write_json
from hypoxnet.inference.predictor import load_predictor
from hypoxnet.inference.run import run_inference
from hypoxnet.jobs.config import TrainJobConfig
from hypoxnet.jobs.run_folder import RunFolder, log_to, open_run
from hypoxnet.report.page import write_report
from hypoxnet.training.run import TrainingSetup, fit
from hypoxnet.transforms.settings import PrepareSettings

log = logging.getLogger(__name__)
