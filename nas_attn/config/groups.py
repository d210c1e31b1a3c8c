"""The groups of the settings, in the order of the help and of the reference page."""

from __future__ import annotations

SPACE = "Search space"
DATA = "Data"
BUDGET = "Budget"
TRAINING = "Training"
OWN = "Custom training (reads its own images unless --data is stated)"
ENGINE = "Search engine"
RESOURCES = "Resources"
RUN = "Run"
GROUPS = (SPACE, DATA, BUDGET, TRAINING, OWN, ENGINE, RESOURCES, RUN)
