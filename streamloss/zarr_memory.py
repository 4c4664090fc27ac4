"""How much memory zarr-python holds while it reads; the bounds were fitted to measured peaks."""

import math
from typing import Any

from streamloss.volume import Region, touched_chunks


def read_bytes(
    codecs: list[Any],
    region: Region,
    chunks: tuple[int, ...],
    itemsize: int,
    concurrency: int,
) -> int:
    """
    Bound the bytes zarr-python holds while it reads `region` of chunks of one codec chain.

    It decodes `concurrency` chunks at once, each held as stored and before and after the
    codec at work, and keeps a task (2 KiB, measured) for each chunk of the region. A shard
    also holds what the region needs of it, stored and decoded.
    """
    from zarr.codecs import ShardingCodec

    touched = math.prod(map(len, touched_chunks(region, chunks)))
    in_flight = min(touched, concurrency)
    decoded = math.prod(chunks) * itemsize
    names = {
        (codec.codec_id if hasattr(codec, "codec_id") else codec.to_dict()["name"]).rpartition(".")[
            2
        ]
        for codec in codecs
    }
    # Python's streaming decompressors join pieces, so they hold the output twice.
    copies, scratch = (5, 2**17) if names & {"gzip", "zlib", "bz2", "lzma"} else (3, 0)
    scratch += 9 * 2**20 if "lzma" in names else 0
    sharding = next((codec for codec in codecs if isinstance(codec, ShardingCodec)), None)
    if sharding is None:
        return in_flight * (copies * _stored(decoded) + scratch) + touched * 4096
    inner = sharding.chunk_shape
    if len(codecs) > 1:
        # Codecs around the sharding let no part of a shard be decoded alone.
        region = _align(region, chunks)
        outer = in_flight * (copies * _stored(decoded) + scratch)
    else:
        outer = 0
    per_shard = [
        _widest_part(extent, shard, chunk)
        for extent, shard, chunk in zip(region, chunks, inner, strict=True)
    ]
    needed = [extent.stop - extent.start for extent in _align(region, inner)]
    part: int = min(in_flight * math.prod(per_shard), math.prod(needed)) * itemsize
    # One more is looked at by `checked_store`.
    index: int = 64 * math.prod(shard // chunk for shard, chunk in zip(chunks, inner, strict=True))
    return (
        outer
        + _stored(part)
        + part
        + (in_flight + 1) * index
        + touched * 4096
        + read_bytes(list(sharding.codecs), region, inner, itemsize, in_flight * concurrency)
    )


def _stored(decoded: int) -> int:
    """Bound the size of incompressible data in the formats of zstd, blosc, gzip, lz4 and bz2."""
    return decoded + decoded // 64 + 4096


def _align(region: Region, chunks: tuple[int, ...]) -> Region:
    """Widen a region to whole chunks."""
    return tuple(
        slice(extent.start // chunk * chunk, -(-extent.stop // chunk) * chunk)
        for extent, chunk in zip(region, chunks, strict=True)
    )


def _widest_part(extent: slice, shard: int, chunk: int) -> int:
    """Return the most that `extent` needs of any one shard, along one axis, in whole chunks."""
    widest = 0
    for start in range(extent.start // shard * shard, extent.stop, shard):
        low = max(extent.start - start, 0) // chunk
        high = -(-min(extent.stop - start, shard) // chunk)
        widest = max(widest, high - low)
    return int(widest * chunk)
