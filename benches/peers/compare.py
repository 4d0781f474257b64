#!/usr/bin/env python3
"""Lets flatleaf, its peers and the machine's own limits take turns at the same work, and prints the ratios.

    python compare.py [--rounds 10] [--trees mlp,resnet50,gpt2,small10k] [--ops ...] [--peers torch,jax,numpy]
                      [--seconds 0.2] [--threads 2]

Needs what requirements.txt names. Each is a process of its own that works when it is its turn, for half of `seconds` to warm up and then for
`seconds`, and waits otherwise; one turn of all is a round. So whatever the machine does meanwhile, all of them meet it. A ratio is the
median of its value in each round; the best peer is the one of the smallest median time.
"""
import argparse, collections, json, os, statistics, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# In the order in which every process comes to them. What the machine's limit is for each: the row of peer `limit` that moves the same bytes.
LIMITS = {"flatten_new": "memcpy", "flatten_into": "memcpy", "restructure_new": "memcpy", "restructure_into": "memcpy",
          "norm_l2": "read", "clip_norm": "read", "ema": "triad",
          "adamw": "rule", "adamw_bf16": "rule_bf16", "adamw_8_bits": "rule_8_bits",
          "step_clip_adamw_ema": "step", "step_flat_clip_adamw_ema": "step",
          "step_clip_adamw_ema_bf16": "step_bf16", "step_flat_clip_adamw_ema_bf16": "step_bf16",
          "step_clip_adamw_ema_8_bits": "step_8_bits", "step_flat_clip_adamw_ema_8_bits": "step_8_bits"}
# The works that make new arrays are timed once more in a process whose allocator keeps what is freed, as the peers' processes do: glibc gives
# large blocks back on every call, and then page faults cost more than the copy.
NEW = ["flatten_new", "restructure_new"]
KEPT = {"MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_MMAP_THRESHOLD_": "100000000000"}
OURS = ["cargo", "bench", "--quiet", "--bench", "versus"]
# Seconds after a turn, in which threads that spin for a while come to rest.
PAUSE = 0.02


def row_of(worker, op):
    """The row of a process that stands beside a row of ours: of the limit, and of peers, which keep all state in f32."""
    if worker == "limit":
        return LIMITS[op]
    return op if worker in ("flatleaf", "kept") else op.removesuffix("_bf16").removesuffix("_8_bits")


class Worker:
    """A process that has come to the row `op`, or to its end: None."""

    def __init__(self, name, command, environment, a, tree, ops):
        options = ["--turns", "--trees", tree, "--ops", ",".join(ops), "--seconds", a.seconds]
        self.name = name
        self.process = subprocess.Popen(command + options, cwd=ROOT, env=environment, text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def read(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        return {"op": None}

    def start(self):
        self.op = self.read()["op"]

    def turn(self):
        self.process.stdin.write("go\n")
        median = self.read()["median_s"]
        time.sleep(PAUSE)
        return median

    def go_on(self):
        self.process.stdin.write("next\n")
        self.start()


def workers(a, tree, ops):
    # Thread settings are the peers' own, but for the number; variables that slow a numerical library down are left out.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")} | {"OMP_NUM_THREADS": a.threads}
    ours = OURS + ["--", "--threads", a.threads]
    peers = [sys.executable, os.path.join(HERE, "peers.py"), "--peers"]
    new = [op for op in ops if op in NEW]
    yield Worker("flatleaf", ours, environment, a, tree, ops)
    yield Worker("limit", ours, environment, a, tree, [row_of("limit", op) for op in ops])
    if new:
        yield Worker("kept", ours, environment | KEPT, a, tree, new)
    for peer in a.peers.split(","):
        yield Worker(peer, peers + [peer], environment, a, tree, [row_of(peer, op) for op in ops])


def compare(a, tree, ops):
    """For each op the times of each process, by round."""
    all_workers = list(workers(a, tree, ops))
    for worker in all_workers:
        worker.start()
    for at, op in enumerate(ops):
        here = [worker for worker in all_workers if worker.op == row_of(worker.name, op)]
        for worker in all_workers:
            if worker.name in ("flatleaf", "limit") and worker not in here:
                sys.exit(f"expected the row {row_of(worker.name, op)} of {worker.name}, found {worker.op}: are they in the order of LIMITS?")
        times = collections.defaultdict(list)
        for _ in range(a.rounds):
            for worker in here:
                times[worker.name].append(worker.turn())
        yield op, times
        for worker in here:
            if not any(row_of(worker.name, later) == worker.op for later in ops[at + 1:]):
                worker.go_on()
    for worker in all_workers:
        worker.process.stdin.close()
        worker.process.wait()


def ratio(over, under):
    return statistics.median(x / y for x, y in zip(over, under))


def rows(op, times):
    """Name, time, best peer and its time, ratios to it and to the limit: of flatleaf, and where memory is kept."""
    peers = {name: statistics.median(times[name]) for name in times if name not in ("flatleaf", "kept", "limit")}
    best = min(peers, key=peers.get, default=None)
    for whose, name in (("flatleaf", op), ("kept", f"{op}, memory kept")):
        if whose in times:
            faster = ratio(times[best], times[whose]) if best else None
            yield name, statistics.median(times[whose]), best, peers.get(best), faster, ratio(times["limit"], times[whose])


def print_row(tree, op, row):
    name, ours, best, theirs, faster, of_limit = row
    peer = f"{best}, {1e3 * theirs:.3f} ms | {faster:.2f}" if best else "|"
    print(f"| {tree} | {name} | {1e3 * ours:.3f} ms | {peer} | {100 * of_limit:.0f} % of {LIMITS[op]} |", flush=True)


def print_summary(trees, summary):
    """How many times faster than the best peer, by work and tree; where no peer does the work, the share of the limit."""
    print("\n| work | " + " | ".join(trees) + " |")
    print("| --- |" + " --- |" * len(trees))
    for name, cells in summary.items():
        texts = (f"{faster:.2f} {best}" if best else f"{100 * of_limit:.0f} %" for best, faster, of_limit in cells)
        print(f"| {name} | " + " | ".join(texts) + " |")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--rounds", type=int, default=10)
    ap.add_argument("--trees", default="mlp,resnet50,gpt2,small10k")
    ap.add_argument("--ops", default=",".join(LIMITS))
    ap.add_argument("--peers", default="torch,jax,numpy")
    ap.add_argument("--seconds", default="0.2")
    ap.add_argument("--threads", default=str(os.cpu_count()))
    a = ap.parse_args()
    subprocess.run(OURS + ["--no-run"], cwd=ROOT, check=True)
    ops = [op for op in LIMITS if op in a.ops.split(",")]
    print("| tree | work | flatleaf | best peer | times faster | of the machine's limit |")
    print("| --- | --- | --- | --- | --- | --- |")
    trees, summary = a.trees.split(","), collections.defaultdict(list)
    for tree in trees:
        for op, times in compare(a, tree, ops):
            for row in rows(op, times):
                print_row(tree, op, row)
                summary[row[0]].append((row[2], row[4], row[5]))
    print_summary(trees, summary)


if __name__ == "__main__":
    main()
