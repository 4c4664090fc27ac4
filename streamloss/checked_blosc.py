"""Blosc of numcodecs that refuses a chunk of another size than its header says.

The C library reads as far as the header says, whatever the buffer. For arrays that zarr-python
reads; `zarr_codecs` looks at the header itself. Imports numcodecs.
"""

from collections.abc import Iterable
from typing import Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np

from streamloss.zarr_codecs import blosc_size


class CheckedBlosc(numcodecs.Blosc):  # type: ignore[misc]
    """The codec "blosc" with a look at the header before it decodes."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Decode a chunk, if it has the bytes that its header says."""
        blosc_size(np.frombuffer(buf, np.uint8))
        return super().decode(buf, out)


def check_blosc(codecs: Iterable[Any]) -> None:
    """Let those codecs of an array of zarr-python that are blosc check what they decode.

    Parameters
    ----------
    codecs
        Of Zarr v3, those within shards too, or of v2. Only such of v3 as tell the size of an
        element, as every writer of shuffled bytes must, are covered.
    """
    for codec in codecs:
        check_blosc(getattr(codec, "codecs", ()))
        # What zarr-python decodes with: of v2, of a codec of v3, or of one that wraps numcodecs.
        found = [codec, getattr(codec, "_codec", None)]
        if getattr(codec, "typesize", None) is not None:
            found.append(getattr(codec, "_blosc_codec", None))
        for inner in found:
            if type(inner) is numcodecs.Blosc:
                inner.__class__ = CheckedBlosc
