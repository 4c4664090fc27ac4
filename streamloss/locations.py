"""How a user names an array: a path, a path into a file, or a URL."""

import re
from pathlib import Path

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")


def is_url(name: str) -> bool:
    """Tell whether a name is a URL rather than a path."""
    return _URL.match(name) is not None


def split_at_file(path: Path) -> tuple[Path, str]:
    """Return the file that a path leads to or into, and the path within it.

    Formats such as HDF5 and Zip hold a tree in one file, so that `scan.h5/volumes/raw`
    names an array. What lies on no file is returned as it is.

    Examples
    --------
    >>> _ = Path("scan.h5").write_bytes(b"")
    >>> split_at_file(Path("scan.h5/volumes/raw"))
    (PosixPath('scan.h5'), 'volumes/raw')
    """
    if path.exists():
        return path, ""
    for outer in path.parents:
        if outer.exists():
            return (outer, path.relative_to(outer).as_posix()) if outer.is_file() else (path, "")
    return path, ""
