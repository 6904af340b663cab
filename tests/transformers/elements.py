"""Elements of tensors for folders.py here and checkpoints.py, which tests/tests/transformers.rs computes
again. Values are multiples of 2^-18 below 1, exact in 32-bit floats.
"""

import numpy as np


def element(name, count):
    """The elements of the tensor `name`: a hash of the name (FNV-1a) mixed with the index."""
    seed = 2166136261
    for byte in name.encode():
        seed = (seed ^ byte) * 16777619 % 2**32
    x = (np.uint64(seed) + np.arange(count, dtype=np.uint64) * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
    x = (x ^ (x >> np.uint64(15))) * np.uint64(2246822519) & np.uint64(0xFFFFFFFF)
    x = x ^ (x >> np.uint64(13))
    value = (x >> np.uint64(16)).astype(np.float64) / 32768 - 1
    if name.endswith("norm.weight"):
        return 1 + value / 8
    if name in ("shared.weight", "lm_head.weight", "model.embed_tokens.weight") or "relative_attention_bias" in name:
        return value
    return value / 2
