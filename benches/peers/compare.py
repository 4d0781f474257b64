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
          "norm_l2": "read", "clip_norm": "read", "ema": "triad",
          "step_clip_adamw_ema": "step"}


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
    ours = ["cargo", "bench", "--quiet", "--bench", "versus", "--", "--seconds", a.seconds, "--ops", a.ops, "--threads", a.threads]
    peers = [sys.executable, os.path.join(HERE, "peers.py"), "--seconds", a.seconds, "--ops", a.ops]
    # Thread settings are the peers' own, but for the number; variables that slow a numerical library down are left out.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")} | {"OMP_NUM_THREADS": a.threads}
    times = collections.defaultdict(list)
    for _ in range(a.rounds):
        for tree in a.trees.split(","):
            for command in (ours, peers):
                for row in rows(command + ["--trees", tree], env=environment):
                    times[row["tree"], row["op"], row["peer"]].append(row["median_s"])
    median = {key: statistics.median(value) for key, value in times.items()}
    table(median, a.trees.split(","), a.ops.split(","))


def table(median, trees, ops):
    print("| tree | work | flatleaf | best peer | times faster | of the machine's limit |")
    print("| --- | --- | --- | --- | --- | --- |")
    for tree in trees:
        for op in ops:
            ours = median.get((tree, op, "flatleaf"))
            others = {peer: t for (tr, o, peer), t in median.items() if (tr, o) == (tree, op) and peer not in ("flatleaf", "limit")}
            if ours is None or not others:
                continue
            best = min(others, key=others.get)
            limit = median.get((tree, LIMITS.get(op), "limit"))
            of_limit = f"{100 * limit / ours:.0f} % of {LIMITS[op]}" if limit else ""
            print(f"| {tree} | {op} | {1e3 * ours:.3f} ms | {best}, {1e3 * others[best]:.3f} ms | {others[best] / ours:.2f} | {of_limit} |")
        flat, limit = (median.get((tree, *row)) for row in (("step_flat_clip_adamw_ema", "flatleaf"), ("step", "limit")))
        if flat:
            print(f"| {tree} | step_flat_clip_adamw_ema | {1e3 * flat:.3f} ms | | | {100 * limit / flat:.0f} % of step |")


if __name__ == "__main__":
    main()
