"""Writes `tests/golden/states/`: state files that later versions must still read.

Run it only to add files for statistics that are new; those that are there stay.
"""

import json
from pathlib import Path

import numpy as np

import streamloss as sl

FOLDER = Path(__file__).parent / "states"
ALL = ("inputs", "options", "voxels", "classes", "metrics", "integrity")


def main() -> None:
    """Write two shards and the result of each case that is not there yet."""
    FOLDER.mkdir(exist_ok=True)
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 3, (6, 5, 4)).astype(np.uint8)
    labels = np.where(rng.random(truth.shape) < 0.7, truth, 0).astype(np.uint8)
    scores = rng.dirichlet(np.ones(3), truth.shape).transpose(3, 0, 1, 2).astype(np.float32)
    cases = {
        "labels": (labels, {"metrics": ["dice", "iou", "mcc", "confusion_matrix"]}),
        "probabilities": (
            scores,
            {"metrics": ["cross_entropy", "focal_loss", "soft_dice", "brier_score", "accuracy"]},
        ),
        "regions": (labels, {"metrics": ["dice"], "regions": "any=1+2,core=2", "ignore_label": 0}),
    }
    for name, (prediction, options) in cases.items():
        if (FOLDER / f"{name}.json").exists():
            continue
        for number in range(2):
            path = FOLDER / f"{name}-{number}.slstate"
            sl.score(truth, prediction, shard=f"{number}/2", save_state=path, **options)
        plain = json.loads(sl.score(truth, prediction, **options).to_json())
        text = json.dumps({key: plain[key] for key in ALL}, indent=1)
        (FOLDER / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
