"""The training job: cohort in; model, predictions for withheld patients, metrics and a report out."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)
