"""Panels that others have published estimates of, prepared as they did."""

from pathlib import Path
from typing import Any

import numpy as np

from pluralign.choice.latent_class.panel import Panel

AUTO, WALK, BIKE, WALK_TRANSIT, DRIVE_TRANSIT, PRIVATE_TRANSIT = range(1, 7)


def swissmetro(folder: Path) -> Panel:
    """Choices among train, Swissmetro and car, 9 by each of 752 travellers (Biogeme's example b01a).

    Features: constants of train and car, travel time and cost in hundreds.
    """
    table = np.genfromtxt(folder / "swissmetro.dat", delimiter="\t", names=True)
    table = table[np.isin(table["PURPOSE"], (1, 3)) & (table["CHOICE"] != 0)]
    features = np.zeros((len(table), 3, 4))
    features[:, 0, 0] = features[:, 2, 1] = 1
    pays = table["GA"] == 0  # others hold a season ticket
    for column, (mode, fare) in enumerate((("TRAIN", pays), ("SM", pays), ("CAR", 1))):
        features[:, column, 2] = table[f"{mode}_TT"] / 100
        features[:, column, 3] = table[f"{mode}_CO"] * fare / 100
    stated = table["SP"] != 0
    shown = np.stack((table["TRAIN_AV"] * stated, table["SM_AV"], table["CAR_AV"] * stated), 1) > 0
    return Panel(
        responses=np.arange(shown.size).reshape(shown.shape),
        ranks=_chosen(shown, table["CHOICE"].astype(int) - 1),
        annotator=np.unique(table["ID"], return_inverse=True)[1],
        features=features.reshape(-1, 4),
    )


def travel_modes(folder: Path, reference: dict[str, Any]) -> tuple[Panel, dict[str, Any]]:
    """580 trips of 167 people by six modes, and the settings of the two-class model of the LCCM package's example.

    The first class does not consider the bike. Columns 0 to 6 of the features are the first class's, 7 to 13 the
    second's; time is scaled by 1e-5 for the first. Membership depends on a constant, cars owned, low and high
    income, being male, and the distance.
    """
    table = np.genfromtxt(folder / "lccm_qualtrics_long.csv.gz", delimiter=",", names=True)
    mode, time, cost = table["mode_id"].astype(int), table["travel_time"], table["travel_cost"]
    features = np.zeros((len(table), 14))
    for column, own in enumerate((WALK, WALK_TRANSIT, DRIVE_TRANSIT, PRIVATE_TRANSIT)):
        features[mode == own, column] = 1
    features[:, 4] = time * 1e-5
    features[:, 5] = cost * np.isin(mode, (AUTO, DRIVE_TRANSIT))
    features[:, 6] = cost * np.isin(mode, (WALK_TRANSIT, PRIVATE_TRANSIT))
    for column, own in enumerate((WALK, BIKE, WALK_TRANSIT, DRIVE_TRANSIT, PRIVATE_TRANSIT)):
        features[mode == own, 7 + column] = 1
    features[:, 12] = time
    features[:, 13] = cost * np.isin(mode, (AUTO, WALK_TRANSIT, DRIVE_TRANSIT, PRIVATE_TRANSIT))

    _, first, trip = np.unique(table["custom_id"], return_index=True, return_inverse=True)
    responses, shown = np.zeros((len(first), 6), dtype=int), np.zeros((len(first), 6), dtype=bool)
    responses[trip, mode - 1], shown[trip, mode - 1] = np.arange(len(table)), True
    chosen = np.zeros(len(first), dtype=int)
    chosen[trip[table["choice"] == 1]] = mode[table["choice"] == 1] - 1

    _, person = np.unique(table["ID"], return_inverse=True)
    income = table["HHIncome"]
    about = (
        np.ones(len(table)),
        table["car_ownership"],
        income < 6,
        (income >= 12) & (income < 16),
        table["Gender"] == 1,
        table["distance"],
    )
    rows = np.bincount(person)
    covariates = np.stack([np.bincount(person, weights=values) / rows for values in about], 1)
    available = np.ones((2, len(table)), dtype=bool)
    available[0, mode == BIKE] = False

    fixed = np.zeros((2, 14))
    fixed[0, :7] = fixed[1, 7:] = np.nan
    start = np.zeros((2, 14))
    start[0, :7], start[1, 7:] = reference["start"]["class1"], reference["start"]["class2"]
    start[0, 4] *= 1e5
    panel = Panel(
        responses, _chosen(shown, chosen), person[first], features, covariates=covariates, available=available
    )
    return panel, {"types": 2, "fixed": fixed, "coefficients_init": start, "ridge": 0.0}


def _chosen(shown: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Ranks of a choice: 1 for the chosen one, 0 for the others that were shown."""
    ranks = np.where(shown, 0, -1)
    ranks[np.arange(len(ranks)), column] = 1
    return ranks


# Preferences among six packet puddings (Davidson 1970, table 1): i, j, i preferred, j preferred, no preference.
PUDDING = [
    (1, 2, 19, 22, 16), (1, 3, 16, 19, 12), (2, 3, 19, 19, 10), (1, 4, 18, 23, 13), (2, 4, 23, 19, 9),
    (3, 4, 19, 20, 15), (1, 5, 13, 19, 18), (2, 5, 16, 20, 12), (3, 5, 16, 15, 17), (4, 5, 17, 14, 16),
    (1, 6, 18, 21, 12), (2, 6, 22, 20, 12), (3, 6, 13, 18, 10), (4, 6, 14, 19, 18), (5, 6, 11, 21, 12),
]  # fmt: skip
