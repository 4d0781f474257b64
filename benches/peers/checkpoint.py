#!/usr/bin/env python3
"""Times Python's safetensors.numpy on a file that ../checkpoint.rs made and names: started by that, to be in the same run."""
import os, statistics, sys, time

from safetensors.numpy import load_file, save_file


def median(job, rounds=15):
    job()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def sync(path):
    for name in (path, os.path.dirname(path)):
        handle = os.open(name, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def main():
    path, out = sys.argv[1], sys.argv[1] + ".python"
    arrays = load_file(path)
    assert sum(array.nbytes for array in arrays.values()) > 0
    rows = {
        ("write", "Python: save_file, then fsync as above"): lambda: (save_file(arrays, out), sync(out)),
        ("write", "Python: save_file, not synchronised"): lambda: save_file(arrays, out),
        ("read", "Python: load_file, new arrays"): lambda: load_file(path),
    }
    for (what, name), job in rows.items():
        print(f"{what:<8} {name:<44} {median(job):>7.2f} ms")
    os.remove(out)


main()
