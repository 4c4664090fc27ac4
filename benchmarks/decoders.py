"""Two ways to decode chunks of zstd, in milliseconds of processor time a chunk.

`python -m benchmarks.decoders` reads predictions of 256³ by one thread: columns of chunks in one
compiled call, which uses the library of numcodecs, and each chunk by a call of `zstandard`.
"""

import itertools
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import zarr

from benchmarks.data import Pair, build
from streamloss import zarr_codecs
from streamloss.direct import DirectReader, open_direct

SIZE = 256
ROUNDS = 15
PAIRS = [Pair(kind, SIZE, chunk) for kind in ("labels", "probabilities") for chunk in (32, 64, 128)]


def _reader(path: str, largest: int) -> DirectReader:
    """Return a reader that decodes chunks of at most some bytes by compiled calls."""
    with mock.patch.object(zarr_codecs, "_LARGE", largest):
        reader = open_direct(zarr.open_array(path, mode="r"))
    assert reader is not None
    return reader


def _read(reader: DirectReader, chunk: int, out: np.ndarray) -> float:
    """Return the seconds of processor time that reading all columns takes."""
    start = time.thread_time()
    for i, j in itertools.product(range(SIZE // chunk), repeat=2):
        rows, columns = (slice(k * chunk, k * chunk + chunk) for k in (i, j))
        reader.read((slice(0, SIZE), rows, columns), out)
    return time.thread_time() - start


def main() -> None:
    """Print the table; the first argument is where volumes are kept."""
    data = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    print(f"{'prediction, chunks':<28}{'compiled':>10}{'zstandard':>11}{'ratio':>7}")
    for pair in PAIRS:
        path = build(pair, data)["prediction"]
        readers = [_reader(path, largest) for largest in (2**40, 0)]
        out = np.empty((SIZE, pair.chunk, pair.chunk), zarr.open_array(path, mode="r").dtype)
        seconds: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for reader, times in zip(readers, seconds, strict=True):
                times.append(_read(reader, pair.chunk, out))
        count = (SIZE // pair.chunk) ** 3
        one, other = (1e3 * median(times) / count for times in seconds)
        ratio = median(a / b for a, b in zip(*seconds, strict=True))
        print(f"{pair.kind + f', {pair.chunk}³':<28}{one:>10.3f}{other:>11.3f}{ratio:>7.2f}")


if __name__ == "__main__":
    main()
