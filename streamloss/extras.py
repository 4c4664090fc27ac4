"""Packages that are needed for some formats only, and how to get them."""

import importlib
from typing import Any

from streamloss.errors import MissingPackageError

# Where a package is called otherwise by those who install it.
_NAMES = {"nrrd": "pynrrd"}


def require(package: str, *, extra: str, what: str) -> Any:
    """Import a package of an extra.

    Parameters
    ----------
    package
        Name of the module.
    extra
        Which extra of streamloss installs it.
    what
        Subject of the error's sentence, such as "NIfTI".

    Raises
    ------
    MissingPackageError
        If it is not installed; names the extra.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        needs = f"{what} needs" if " and " not in what else f"{what} need"
        raise MissingPackageError(
            f"{needs} the package {_NAMES.get(package, package.partition('.')[0])}: "
            f'python -m pip install "streamloss[{extra}]"'
        ) from error
