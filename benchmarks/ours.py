"""What is measured of `streamloss`, under the names of the metrics, and the reader that ran."""

from typing import Any

import streamloss

LOSSES = ("cross_entropy", "focal_loss", "mse", "soft_dice")


def dice(truth: Any, prediction: Any, workers: int) -> dict[str, Any]:
    """Return Dice of the foreground classes."""
    result = streamloss.score(
        truth, prediction, metrics="dice", classes=4, workers=workers, max_memory="1GiB"
    )
    return {"dice": list(result["dice"].per_class.values()), "reader": result.timing["reader"]}


def losses(truth: Any, prediction: Any, workers: int) -> dict[str, Any]:
    """Return four losses of binary probabilities, floating point or quantised."""
    result = streamloss.score(
        truth,
        prediction,
        metrics=LOSSES,
        kind="probabilities",
        workers=workers,
        max_memory="1GiB",
    )
    values = {name: result[name].value for name in LOSSES}
    return {**values, "reader": result.timing["reader"]}
