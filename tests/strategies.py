"""Hypothesis strategies: cases of every kind, chunk grids, splits and merge trees."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from streamloss.options import ArrayFacts, settle
from streamloss.registry import definitions, metric_names, parameters

# (kind, channels, soft truth): the layouts a statistic can meet. Channels of 1
# come without a channel axis.
LAYOUTS = [
    ("labels", 0, False),
    ("probabilities", 1, False),
    ("probabilities", 1, True),
    ("probabilities", 3, False),
    ("probabilities", 3, True),
    ("logits", 1, False),
    ("logits", 1, True),
    ("logits", 4, False),
    ("logits", 4, True),
    ("values", 1, False),
]
LABEL_DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"]


@dataclass
class Case:
    """A pair of arrays and the options to score them with."""

    truth: np.ndarray
    prediction: np.ndarray
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self):
        return settle(
            ArrayFacts(self.truth.shape, self.truth.dtype),
            ArrayFacts(self.prediction.shape, self.prediction.dtype),
            **self.options,
        )

    @property
    def ndim(self):
        task = self.task
        return self.truth.ndim - (task.soft_truth and task.channels > 1)

    def options_of(self, metrics):
        """The options for a choice of metrics, without those that none of them has."""
        taken = {p.name for m in metrics for _, d in definitions(m) for p in d.parameters}
        kept = {n: v for n, v in self.options.items() if n not in parameters() or n in taken}
        return {**kept, "metrics": metrics}

    def part(self, box):
        """The case restricted to a box of voxels."""
        return Case(self.truth[(..., *box)], self.prediction[(..., *box)], self.options)


def metrics_of(kind, soft, labels_are_zero_one=True):
    """Every metric that such inputs can give."""
    return [
        name
        for name in metric_names()
        for _, metric in definitions(name)
        if kind in metric.kinds
        and (metric.soft_truth or not soft)
        and (kind != "labels" or labels_are_zero_one or not metric.zero_one_labels)
    ]


def shapes(max_dims=4):
    return st.lists(st.integers(1, 7), min_size=1, max_size=max_dims).map(tuple)


def runs_of(rng, choices, shape):
    """Values in runs, as labels have them, or scattered."""
    size = int(np.prod(shape))
    mean = rng.choice([1, 4, 40])
    return np.repeat(rng.choice(choices, size), rng.integers(1, 2 * mean + 1, size))[:size].reshape(
        shape
    )


def unit_values(rng, shape, dtype):
    """Numbers in [0, 1] that pile up at both ends, the ends included."""
    numbers = rng.random(shape)
    where = rng.random(shape)
    numbers = np.where(where < 0.1, 0.0, np.where(where > 0.9, 1.0, numbers))
    numbers = np.where((where > 0.4) & (where < 0.5), numbers**40, numbers)
    return numbers.astype(dtype)


@st.composite
def cases(draw, layout=None, max_dims=4):
    kind, channels, soft = draw(st.sampled_from(LAYOUTS)) if layout is None else layout
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(shapes(max_dims))
    full = (channels, *shape) if channels > 1 else shape
    options: dict[str, Any] = {"kind": kind}
    truth_dtype = np.dtype(draw(st.sampled_from([*LABEL_DTYPES, "?"])))
    float_dtype = np.dtype(draw(st.sampled_from(["f2", "f4", "f8"])))
    zero_one = True
    if kind == "labels":
        zero_one = truth_dtype.kind == "b" or draw(st.booleans())
        labels = [0, 1] if zero_one else draw(st.sampled_from([[0, 1, 2, 3], [0, 7, 103]]))
        if zero_one or draw(st.booleans()):
            options["classes"] = labels
        truth = runs_of(rng, labels, shape).astype(truth_dtype)
        prediction_dtype = np.dtype(draw(st.sampled_from(LABEL_DTYPES)))
        prediction = np.where(rng.random(shape) < 0.7, truth, runs_of(rng, labels, shape)).astype(
            prediction_dtype
        )
    elif kind == "values":
        scale = 10.0 ** draw(st.integers(-30, 30))
        truth = (rng.normal(size=shape) * min(scale, 1e4)).astype(float_dtype)
        prediction = rng.normal(size=shape) * scale
    else:
        if soft:
            truth = unit_values(rng, full, float_dtype)
            if channels > 1:
                options["classes"] = channels
        else:
            dtype = np.dtype("u1") if channels > 1 and truth_dtype.kind == "b" else truth_dtype
            truth = runs_of(rng, np.arange(max(channels, 2)), shape).astype(dtype)
        if kind == "probabilities":
            code = draw(st.sampled_from(["f2", "f4", "f8", "u1", "u2"]))
            if code[0] == "u":
                prediction = rng.integers(0, np.iinfo(code).max, full, code, endpoint=True)
            else:
                prediction = unit_values(rng, full, code)
        else:
            width = draw(st.sampled_from([1.0, 30.0, 3000.0]))
            prediction = (rng.normal(size=full) * width).astype(float_dtype)
        options["gamma"] = draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
    # Some at a time: one of each statistic, and others, so that all come up and each case is quick.
    possible = metrics_of(kind, soft, zero_one)
    first = {definition_of(name, kind)[0].name: name for name in rng.permutation(possible).tolist()}
    others = rng.choice(possible, min(4, len(possible)), replace=False).tolist()
    options["metrics"] = sorted({*first.values(), *others})
    if kind == "values" and np.abs(prediction).max(initial=0) > 700:
        # The exponential of such a logarithm of a rate is refused.
        options["metrics"] = [name for name in options["metrics"] if name != "poisson_nll"] or [
            "mse"
        ]
    options |= draw(loss_options(kind, channels, soft, options["metrics"]))
    taken = {"kind", "classes", "metrics"} | {
        option for name in options["metrics"] for option in definition_of(name, kind)[1].options
    }
    options = {name: value for name, value in options.items() if name in taken}
    return Case(truth, prediction, options)


def definition_of(name, kind):
    """The statistic and the metric that a name means for a kind."""
    return next((s, m) for s, m in definitions(name) if kind in m.kinds)


@st.composite
def loss_options(draw, kind, channels, soft, metrics):
    """Options of the losses, each left out as often as not; not the reduction alone."""
    weights = st.floats(0.125, 20.0)
    drawn = {}
    if kind == "labels":
        return drawn
    reductions = ["mean", "sum"] if soft or kind == "values" else ["mean", "sum", "positives"]
    if kind == "values":
        drawn = {"delta": weights, "full": st.booleans()}
        if "poisson_nll" not in metrics:
            del drawn["full"]
    else:
        drawn = {
            "label_smoothing": st.sampled_from([0.0, 0.1, 1.0]),
            "denominator": st.sampled_from(["linear", "squared"]),
            "smooth_dr": st.sampled_from([1e-5, 1.0]),
            "tversky_alpha": st.sampled_from([0.0, 0.3, 2.0]),
            "tversky_beta": st.sampled_from([0.3, 0.7, 1.5]),
            "tversky_gamma": st.sampled_from([0.5, 0.75, 1.0, 2.0]),
            "volume_weights": st.sampled_from(["square", "simple", "uniform"]),
            "scale_by_half": st.sampled_from(["auto", True, False]),
            "lambda_ce": weights,
        }
        if channels == 1 and draw(st.booleans()):
            drawn["pos_weight"] = weights
        else:
            count = max(channels, 2)
            drawn["class_weights"] = st.lists(weights, min_size=count, max_size=count).map(tuple)
    drawn["reduction"] = st.sampled_from(reductions)
    options = {name: draw(values) for name, values in drawn.items() if draw(st.booleans())}
    if kind == "values":
        options["data_range"] = draw(weights)
    elif "smooth_dr" in options and draw(st.booleans()):
        options["smooth_nr"] = options["smooth_dr"]
    return options


@st.composite
def chunk_grids(draw, shape):
    return tuple(draw(st.integers(1, size)) for size in shape)


@st.composite
def splits(draw, shape):
    """Cut a box into boxes by random planes, in random order."""
    boxes = [tuple(slice(0, size) for size in shape)]
    for _ in range(draw(st.integers(0, 5))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.integers(0, len(shape) - 1))
        start, stop = box[axis].start, box[axis].stop
        cut = draw(st.integers(start, stop))
        boxes += [
            (*box[:axis], part, *box[axis + 1 :])
            for part in (slice(start, cut), slice(cut, stop))
            if part.stop > part.start
        ]
    return draw(st.permutations(boxes))
