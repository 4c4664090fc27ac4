"""Codecs of numcodecs that refuse a chunk which does not end where its stream does.

Its own stop at the end of a stream, or read as far as a header says, whatever the buffer. For
arrays that zarr-python reads; those that `direct` reads are decoded in `zarr_codecs`. Imports
numcodecs.
"""

from collections.abc import Iterable
from typing import Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
from numcodecs.compat import ndarray_copy  # type: ignore[import-untyped]

from streamloss.zarr_codecs import blosc_size, inflate


class CheckedBlosc(numcodecs.Blosc):  # type: ignore[misc]
    """The codec "blosc" with a look at the header before it decodes."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Decode a chunk, if it has the bytes that its header says."""
        blosc_size(np.frombuffer(buf, np.uint8))
        return super().decode(buf, out)


# Not inherited: an object can only become one of a class that adds no base.
def _decode_whole(codec: Any, buf: Any, out: Any = None) -> Any:
    """Decode a chunk, if it ends where its stream does."""
    return ndarray_copy(b"".join(inflate(codec.get_config(), np.frombuffer(buf, np.uint8))), out)


class CheckedGZip(numcodecs.GZip):  # type: ignore[misc]
    """The codec "gzip" of whole members, without the zeros that may follow in a file."""

    decode = _decode_whole


class CheckedZlib(numcodecs.Zlib):  # type: ignore[misc]
    """The codec "zlib" of one whole stream."""

    decode = _decode_whole


class CheckedBZ2(numcodecs.BZ2):  # type: ignore[misc]
    """The codec "bz2" of whole streams."""

    decode = _decode_whole


class CheckedLZMA(numcodecs.LZMA):  # type: ignore[misc]
    """The codec "lzma" of whole streams."""

    decode = _decode_whole


_CHECKED = {
    numcodecs.Blosc: CheckedBlosc,
    numcodecs.GZip: CheckedGZip,
    numcodecs.Zlib: CheckedZlib,
    numcodecs.BZ2: CheckedBZ2,
    numcodecs.LZMA: CheckedLZMA,
}


def check_codecs(codecs: Iterable[Any]) -> None:
    """Let those codecs of an array of zarr-python that need it check what they decode.

    Parameters
    ----------
    codecs
        Of Zarr v3, those within shards too, or of v2. Blosc of v3 is covered only if it tells
        the size of an element, as every writer of shuffled bytes must.
    """
    for codec in codecs:
        check_codecs(getattr(codec, "codecs", ()))
        # What zarr-python decodes with: of v2, of a codec of v3, or of one that wraps numcodecs.
        found = [codec, getattr(codec, "_codec", None), getattr(codec, "_gzip_codec", None)]
        if getattr(codec, "typesize", None) is not None:
            found.append(getattr(codec, "_blosc_codec", None))
        for inner in found:
            if type(inner) in _CHECKED:
                inner.__class__ = _CHECKED[type(inner)]
