#!/usr/bin/env python3
"""Runs flatleaf's rows and the peers' in turn and prints the table of ratios.

    python compare.py [--rounds 3] [--trees mlp,resnet50,gpt2,small10k] [--ops ...] [--seconds 1] [--threads 2]

Needs what requirements.txt names. A ratio is the best peer's median over flatleaf's, each the median over the rounds.
"""
import argparse, collections, json, os, statistics, subprocess, sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OPS = ["flatten_new", "flatten_into", "restructure_new", "restructure_into", "norm_l2", "clip_norm", "ema", "adamw",
       "step_clip_adamw_ema"]
# What the machine's limit is for each: the row of peer `limit` that moves the same bytes.
LIMITS = {"flatten_new": "memcpy", "flatten_into": "memcpy", "restructure_new": "memcpy", "restructure_into": "memcpy",
          "norm_l2": "read", "clip_norm": "read", "ema": "triad", "adamw": "rule",
          "step_clip_adamw_ema": "step", "step_flat_clip_adamw_ema": "step"}
# The works that make new arrays are timed once more in a process whose allocator keeps what is freed, as the peers' processes do: glibc gives
# large blocks back on every call, and then page faults cost more than the copy.
NEW = ["flatten_new", "restructure_new"]
KEPT = {"MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_MMAP_THRESHOLD_": "100000000000"}


def rows(command, **options):
    out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, **options).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--trees", default="mlp,resnet50,gpt2,small10k")
    ap.add_argument("--ops", default=",".join(OPS + ["step_flat_clip_adamw_ema"]))
    ap.add_argument("--seconds", default="1")
    ap.add_argument("--threads", default=str(os.cpu_count()))
    a = ap.parse_args()
    ops = a.ops.split(",")
    ours = ["cargo", "bench", "--quiet", "--bench", "versus", "--", "--seconds", a.seconds, "--threads", a.threads]
    peers = [sys.executable, os.path.join(HERE, "peers.py"), "--seconds", a.seconds, "--ops", a.ops]
    # Thread settings are the peers' own, but for the number; variables that slow a numerical library down are left out.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")} | {"OMP_NUM_THREADS": a.threads}
    times = collections.defaultdict(list)
    for _ in range(a.rounds):
        for tree in a.trees.split(","):
            for row in rows(ours + ["--ops", a.ops, "--trees", tree], env=environment) + rows(peers + ["--trees", tree], env=environment):
                times[row["tree"], row["op"], row["peer"]].append(row["median_s"])
            new = [op for op in ops if op in NEW]
            for row in rows(ours + ["--ops", ",".join(new), "--trees", tree], env=environment | KEPT) if new else []:
                if row["peer"] == "flatleaf":
                    times[row["tree"], row["op"], "kept"].append(row["median_s"])
    median = {key: statistics.median(value) for key, value in times.items()}
    table(median, a.trees.split(","), ops)


def table(median, trees, ops):
    print("| tree | work | flatleaf | best peer | times faster | of the machine's limit |")
    print("| --- | --- | --- | --- | --- | --- |")
    for tree in trees:
        for op in ops:
            others = {peer: t for (tr, o, peer), t in median.items() if (tr, o) == (tree, op) and peer not in ("flatleaf", "kept", "limit")}
            best = min(others, key=others.get, default=None)
            limit = median.get((tree, LIMITS.get(op), "limit"))
            for whose, name in (("flatleaf", op), ("kept", f"{op}, memory kept")):
                ours = median.get((tree, op, whose))
                if ours is not None:
                    of_limit = f"{100 * limit / ours:.0f} % of {LIMITS[op]}" if limit else ""
                    peer = f"{best}, {1e3 * others[best]:.3f} ms | {others[best] / ours:.2f}" if best else "|"
                    print(f"| {tree} | {name} | {1e3 * ours:.3f} ms | {peer} | {of_limit} |")


if __name__ == "__main__":
    main()
