#!/usr/bin/env python3
"""Does with Python's safetensors.numpy what ../checkpoint.rs does, a job a line on its input: started by that, to be timed in turn.

    python checkpoint.py FILE OUT
"""
import os, sys

from safetensors.numpy import load_file, save_file

PATH, OUT = sys.argv[1:]
ARRAYS = load_file(PATH)


def sync(name):
    handle = os.open(name, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def save_safely():
    save_file(ARRAYS, OUT + ".new")
    sync(OUT + ".new")
    os.rename(OUT + ".new", OUT)
    sync(os.path.dirname(OUT))


JOBS = {
    "save": lambda: save_file(ARRAYS, OUT),
    "save safely": save_safely,
    "load": lambda: load_file(PATH),
}
for line in sys.stdin:
    JOBS[line.strip()]()
    print("done", flush=True)
