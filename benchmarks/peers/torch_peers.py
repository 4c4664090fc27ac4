"""torch, torchmetrics, MONAI and KonfAI in their best forms.

Whole-volume calls spend most of their time on page faults of temporaries; where
a metric can be fed in parts, parts that stay in cache are many times faster, and
a thread per part beats threads within an operation.
"""

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.peers.numpy_peers import losses
from benchmarks.peers.reading import map_blocks, map_parts

CLASSES = 4
PART = 2**18


def losses_whole(truth: Any, prediction: Any, threads: int) -> dict[str, float]:
    """Return four losses by the calls of the manual, on the whole arrays."""
    torch.set_num_threads(threads)
    p, y = torch.from_numpy(prediction), torch.from_numpy(truth).float()
    entropy = functional.binary_cross_entropy(p, y, reduction="none")
    right = p * y + (1 - p) * (1 - y)
    focal = (0.25 * y + 0.75 * (1 - y)) * (1 - right) ** 2 * entropy
    return {
        "cross_entropy": float(entropy.mean()),
        "focal_loss": float(focal.mean()),
        "mse": float(functional.mse_loss(p, y)),
        "soft_dice": float(2 * (p * y).sum() / (p.sum() + y.sum())),
    }


def losses_in_parts(truth: Any, prediction: Any, threads: int) -> dict[str, float]:
    """Return the same from parts that stay in cache, a thread for each."""
    torch.set_num_threads(1)
    return losses(map_parts(loss_sums, truth, prediction, PART, threads))


@torch.inference_mode()
def loss_sums(truth: Any, prediction: Any) -> Any:
    """Return voxels and the sums of the losses of a part, with few temporaries."""
    p, y = torch.from_numpy(prediction), torch.from_numpy(truth).float()
    distance = (p - y).abs_()
    log = torch.log1p(-distance).clamp_(min=-36.04)
    squared = distance.square_()
    focal = squared * log
    return np.array(
        [
            len(p),
            -log.sum().item(),
            -(0.75 * focal.sum() - 0.5 * torch.dot(focal, y)).item(),
            squared.sum().item(),
            p.sum().item(),
            y.sum().item(),
            torch.dot(p, y).item(),
        ]
    )


@torch.inference_mode()
def torchmetrics_from_zarr(truth: str, prediction: str) -> dict[str, Any]:
    """Return Dice by `DiceScore`, updated with one-hot parts of each block."""
    from torchmetrics.segmentation import DiceScore

    torch.set_num_threads(1)
    classes = torch.arange(CLASSES, dtype=torch.uint8)[:, None]

    def empty() -> DiceScore:
        return DiceScore(
            CLASSES,
            include_background=False,
            average="none",
            input_format="one-hot",
            aggregation_level="global",
        )

    def one(t: Any, p: Any) -> DiceScore:
        metric = empty()
        for start in range(0, len(t), PART):
            part = slice(start, start + PART)
            # Sums of int64 are vectorised, sums of smaller integers are not.
            metric.update(*((torch.from_numpy(x[part]) == classes)[None].long() for x in (p, t)))
        return metric

    # The states are lists of sums over parts: lists of the blocks joined are the volume's.
    parts = map_blocks(one, truth, prediction)
    total = empty()
    for name in ("numerator", "denominator", "support"):
        setattr(total, name, [x.double() for part in parts for x in getattr(part, name)])
    total._update_count = 1
    return {"dice": total.compute().reshape(-1).tolist()}


@torch.inference_mode()
def monai_from_zarr(truth: str, prediction: str, threads: int) -> dict[str, Any]:
    """Return Dice by `DiceMetric`, which takes a volume at once, from label maps as bytes."""
    from monai.metrics import DiceMetric

    torch.set_num_threads(threads)
    # Dice of a volume needs no positions: blocks in any order will do.
    blocks = map_blocks(lambda t, p: (t, p), truth, prediction)
    y, p = (torch.from_numpy(np.concatenate(x))[None, None] for x in zip(*blocks, strict=True))
    metric = DiceMetric(include_background=False, num_classes=CLASSES, ignore_empty=True)
    return {"dice": metric(y_pred=p, y=y)[0].tolist()}


@torch.inference_mode()
def konfai_from_zarr(truth: str, prediction: str) -> dict[str, Any]:
    """Return Dice by KonfAI's criterion, streamed as its evaluator streams patches."""
    from konfai.metric.measure import Dice

    torch.set_num_threads(1)
    metric = Dice(labels=list(range(1, CLASSES)))

    def one(t: Any, p: Any) -> list[Any]:
        maps = [torch.from_numpy(x)[None, None] for x in (p, t)]
        return [
            metric.partial_metric(*(x[..., start : start + PART] for x in maps))
            for start in range(0, len(t), PART)
        ]

    parts = map_blocks(one, truth, prediction)
    _, values = metric.combine_metric([part for block in parts for part in block])
    return {"dice": list(values.values())}


@torch.inference_mode()
def auroc_in_memory(truth: Any, prediction: Any) -> dict[str, float]:
    """Return the area under the ROC curve by torchmetrics, without binning."""
    from torchmetrics.functional.classification import binary_auroc

    p, y = torch.from_numpy(prediction.reshape(-1)), torch.from_numpy(truth.reshape(-1)).long()
    return {"auroc": float(binary_auroc(p, y, thresholds=None))}
