"""One integer seed from whatever names a random choice."""

from __future__ import annotations

import hashlib
import json


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) that depends on every part, its type and their order.

    `derive_seed(seed, epoch, step, "augment")` names one random choice of a run, so any epoch can
    be replayed without the ones before it.
    """
    text = json.dumps(parts, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
