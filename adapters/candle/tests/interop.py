#!/usr/bin/env python3
"""Reads the very file that flatleaf-candle wrote, and writes the one that it reads. Started by checkpoints.rs.

    python interop.py OURS THEIRS    checks every tensor of OURS, and writes them doubled to THEIRS
"""
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

ours, theirs = sys.argv[1:]
tensors = load_file(ours)
expected = {
    "body.bias": np.array([0.5, -0.25], np.float32),
    "body.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "head.half": np.array([1.5, -0.0, 65504.0], np.float16),
    "steps": np.array([7, 8], np.int64),
}
assert sorted(tensors) == sorted(expected), sorted(tensors)
for name, array in expected.items():
    found = tensors[name]
    assert found.shape == array.shape and found.dtype == array.dtype, (name, found)
    assert found.tobytes() == array.tobytes(), (name, found)
doubled = {name: array + array for name, array in expected.items() if name != "head.half"}
save_file({**doubled, "head.half": expected["head.half"] / 2}, theirs, {"format": "np"})
