"""Which part of a whole a job is to do, "i/N" as arrays of cluster jobs count them."""

import re
from typing import NamedTuple

from streamloss.errors import InvalidInputError


class Shard(NamedTuple):
    """The `number`-th of `total` parts, counted from 0."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


WHOLE = Shard(0, 1)
"""The part that is everything."""


def parse_shard(text: str) -> Shard:
    """Return the part that "i/N" means.

    Raises
    ------
    InvalidInputError
        If it is not of that form, or i is not below N.
    """
    # Python refuses to read numbers of thousands of digits.
    found = re.fullmatch(r"(\d{1,99})/(\d{1,99})", text) if isinstance(text, str) else None
    if found is None or int(found[1]) >= int(found[2]):
        raise InvalidInputError(f"shard must be i/N with i from 0 to N - 1, got {text!r}")
    return Shard(int(found[1]), int(found[2]))
