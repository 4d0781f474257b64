#!/usr/bin/env python3
"""Reads what flatleaf wrote, and writes what flatleaf reads. Started by tests/checkpoint/python.rs.

    python interop.py read FOLDER     checks tied.safetensors, types.safetensors and complex.safetensors
    python interop.py write FOLDER    writes model.safetensors, shared.safetensors, types.safetensors and complex.safetensors
"""
import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file


def with_aliases(path):
    """The tensors of a file under all their names, as a program that knows of save_model's metadata sees them."""
    tensors = load_file(path)
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
    aliases = {name: tensors[kept] for name, kept in metadata.items() if kept in tensors and name not in tensors}
    return {**tensors, **aliases}, metadata


def expect(found, expected):
    expected = np.asarray(expected)
    assert found.shape == expected.shape and found.dtype == expected.dtype, (found, expected)
    assert found.tobytes() == expected.tobytes(), (found, expected)


def read(folder):
    tensors, metadata = with_aliases(f"{folder}/tied.safetensors")
    assert sorted(tensors) == ["ema.x", "ema.y", "ema.z", "x", "y", "z"], sorted(tensors)
    assert metadata["y"] == "x" and metadata["ema.y"] == "ema.x" and metadata["epoch"] == "3", metadata
    assert len(metadata["flatleaf.fingerprint"]) == 16, metadata
    for name, values in {"x": [1, 2, 3], "y": [1, 2, 3], "z": [4, 5, 6], "ema.y": [0.5, 1.5, 2.5]}.items():
        expect(tensors[name], np.array(values, np.float32))

    types = load_file(f"{folder}/types.safetensors")
    expect(types["f64"], np.array([[0.1], [0.2]], np.float64))
    expect(types["f16"], np.array([1.5, -0.0], np.float16))
    expect(types["f32"], np.array(7, np.float32))
    expect(types["empty"], np.zeros((0, 3), np.float32))
    expect(types["bool"], np.array([True, False]))
    numbers = load_file(f"{folder}/complex.safetensors")
    expect(numbers["0"], np.array([1 - 2j, 0.5j], np.complex64))
    expect(numbers["1"].view(np.complex128)[..., 0], np.array([0.1 + 0.2j], np.complex128))
    for name, value in {"i8": -1, "i16": -2, "i32": -3, "i64": -4, "u8": 1, "u16": 2, "u32": 3, "u64": 2**64 - 1}.items():
        expect(types[name], np.array([value], np.dtype({"i": "int", "u": "uint"}[name[0]] + name[1:])))


def write(folder):
    counted = np.arange(6, dtype=np.float32).reshape(2, 3)
    model = {"weight": counted, "bias": np.array([7, 8], np.float32), "statistics.mean": np.array([0.5, 0.25], np.float64)}
    save_file({f"model.{name}": array for name, array in model.items()}, f"{folder}/model.safetensors", {"format": "np"})
    # One tensor under two names: as save_model leaves it.
    save_file({"x": np.array([7, 8, 9], np.float32), "z": np.array([4, 5, 6], np.float32)},
              f"{folder}/shared.safetensors", {"y": "x", "format": "pt"})
    save_file({"0": np.array([[1 - 2j], [0.5j]], np.complex64)}, f"{folder}/complex.safetensors")
    save_file({"half": np.array([1.0, 65504.0, 6e-8], np.float16), "flags": np.array([[True], [False]]),
               "count": np.array(12, np.int64), "none": np.zeros((2, 0), np.float32)}, f"{folder}/types.safetensors")


{"read": read, "write": write}[sys.argv[1]](sys.argv[2])
