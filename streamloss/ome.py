"""Reads the `multiscales` attribute of OME-Zarr groups, leniently, and writes it.

Knows the attribute's layout from version 0.1 to 0.5 and nothing of stores or arrays.
Files in the wild lack axes, axis types, scales or versions, so what is missing or
malformed is unknown (None), never an error.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VERSIONS = ("0.5", "0.4")
"""Versions that are written, the newest first."""

SPATIAL = ("z", "y", "x")
_NAMES = ("t", "c", *SPATIAL)
_TYPES = {"t": "time", "time": "time", "c": "channel", "channel": "channel"}


@dataclass(frozen=True)
class Level:
    """One resolution level of a multiscale image."""

    path: str
    axes: tuple[str, ...] | None
    spacing: tuple[float, ...] | None
    unit: str | None


def read_levels(attributes: Mapping[str, Any]) -> tuple[Level, ...]:
    """
    Read the resolution levels that a group's attributes declare.

    Parameters
    ----------
    attributes
        The group's attributes; `ome.multiscales` (0.5) or `multiscales` (up to 0.4).

    Returns
    -------
    tuple of Level
        The levels of the first multiscale image in the order of the file, finest first
        by the specification; empty if the group is not a multiscale image.

    Notes
    -----
    The spacing of a level is the product of all its `scale` transformations, those of
    the dataset and those of the multiscale image around it [1]_.

    References
    ----------
    .. [1] Next-generation file formats (NGFF), "multiscales" metadata,
       https://ngff.openmicroscopy.org/0.5/
    """
    ome = attributes.get("ome")
    multiscales = (ome if isinstance(ome, Mapping) else attributes).get("multiscales")
    if not (isinstance(multiscales, list) and multiscales and isinstance(multiscales[0], Mapping)):
        return ()
    image = multiscales[0]
    axes = [
        # Version 0.3 lists names only.
        {"name": axis} if isinstance(axis, str) else axis
        for axis in _list(image.get("axes"))
    ]
    names = [axis.get("name") for axis in axes if isinstance(axis, Mapping)]
    known = bool(axes) and len(names) == len(axes) and all(isinstance(name, str) for name in names)
    space = [
        known and axis.get("type", "space" if axis["name"].lower() in "xyz" else "") == "space"
        for axis in axes
    ]
    units = {axis.get("unit") for axis, spatial in zip(axes, space, strict=True) if spatial}
    # Lengths in different units cannot be compared, so they are as good as unknown.
    comparable = len(units) <= 1
    unit = next(iter(units), None) if comparable else None
    levels = []
    for dataset in _list(image.get("datasets")):
        if not (isinstance(dataset, Mapping) and isinstance(dataset.get("path"), str)):
            continue
        transformations = [
            *_list(dataset.get("coordinateTransformations")),
            *_list(image.get("coordinateTransformations")),
        ]
        spacing = _spacing(transformations, space) if comparable else None
        levels.append(
            Level(
                path=dataset["path"],
                axes=tuple(map(str, names)) if known else None,
                spacing=spacing,
                unit=unit if spacing is not None and isinstance(unit, str) else None,
            )
        )
    return tuple(levels)


def _spacing(transformations: list[Any], space: list[bool]) -> tuple[float, ...] | None:
    """Multiply the scale transformations; None unless every spatial axis has a valid size."""
    scales = [
        transformation["scale"]
        for transformation in transformations
        if isinstance(transformation, Mapping) and isinstance(transformation.get("scale"), list)
    ]
    if not scales or len({len(scale) for scale in scales}) != 1:
        return None
    if space and len(space) != len(scales[0]):
        return None
    try:
        spacing = [math.prod(float(size) for size in sizes) for sizes in zip(*scales, strict=True)]
    except (TypeError, ValueError):
        return None
    for axis, size in enumerate(spacing):
        if not (math.isfinite(size) and size > 0):
            if not space or space[axis]:
                return None
            # The scale of time or channels is often 0; it is no voxel size.
            spacing[axis] = 1.0
    return tuple(spacing)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def image_attributes(
    shape: tuple[int, ...],
    axes: tuple[str, ...] | None,
    spacing: tuple[float, ...] | None,
    unit: str | None,
    *,
    name: str,
    version: str,
    labels: bool,
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """
    Return the names of the axes and the attributes of an image of one level, "0".

    Parameters
    ----------
    shape, axes, spacing, unit
        As in `Volume`. Axes that are unknown, or of which fewer than two are spatial, are
        called t, c, z, y, x, the last ones of these. A spacing that is unknown is 1.
    name
        Of the image.
    version
        One of `VERSIONS`.
    labels
        Whether the image is one of labels.
    """
    names = tuple(axis.lower() for axis in axes or ())
    if sum(axis in SPATIAL for axis in names) < 2:
        names = _NAMES[-len(shape) :]
    described: list[dict[str, str]] = []
    for axis in names:
        kind = "space" if axis in SPATIAL else _TYPES.get(axis)
        described.append({"name": axis} if kind is None else {"name": axis, "type": kind})
        if kind == "space" and unit is not None:
            described[-1]["unit"] = unit
    scale = list(spacing or (1.0,) * len(shape))
    content: dict[str, Any] = {
        "name": name,
        "axes": described,
        "datasets": [
            {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        ],
    }
    if version == "0.4":
        attributes: dict[str, Any] = {"multiscales": [{"version": version, **content}]}
        return names, attributes | ({"image-label": {"version": version}} if labels else {})
    ome: dict[str, Any] = {"version": version, "multiscales": [content]}
    return names, {"ome": ome | ({"image-label": {}} if labels else {})}
