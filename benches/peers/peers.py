#!/usr/bin/env python3
"""Times what PyTorch and JAX/Optax do for the same work as flatleaf, on the same trees.

    python peers.py [--trees mlp,resnet50,...] [--peers torch,jax,numpy] [--seconds 1.0] > peers.json

Prints one JSON object per line: {"peer", "tree", "op", "leaves", "elements", "median_s", "min_s", "runs"}.
With --turns a row waits to be told, as in ../versus.rs.
Needs: numpy; torch (2.9) for torch rows; jax 0.10, optax 0.2 for jax rows. Peers that are not installed are
left out, with a line on stderr. Every peer gets its fastest documented form: foreach/fused in torch, jit with
donated buffers in JAX.

The trees (leaf shapes, in order) are those of trees.json beside this file: the Rust side reads the same file. small10k is 10,000
leaves of 8x8.
"""
import argparse, gc, json, math, os, statistics, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
OPS = set()  # those to run; all if empty
TURNS = False


def timed(fn, seconds, sync, least):
    """Median and minimum wall time of fn() over about `seconds`, and how many calls that were."""
    gc.collect()
    gc.disable()
    out, end = [], time.perf_counter() + seconds
    while len(out) < least or (time.perf_counter() < end and len(out) < 20000):
        t = time.perf_counter()
        sync(fn())
        out.append(time.perf_counter() - t)
    gc.enable()
    return statistics.median(out), min(out), len(out)


def row(peer, tree, op, shapes, fn, seconds, sync=lambda r: None):
    """Measures at once, or, with turns, whenever a line says `go`, until one says otherwise."""
    def emit(med, mn, n):
        print(json.dumps(dict(peer=peer, tree=tree, op=op, leaves=len(shapes), elements=sum(math.prod(s) for s in shapes),
                              median_s=med, min_s=mn, runs=n)), flush=True)
    if OPS and op not in OPS:
        return
    if not TURNS:
        for _ in range(3):
            sync(fn())
        return emit(*timed(fn, seconds, sync, 5))
    emit(None, None, 0)
    while sys.stdin.readline().strip() == "go":
        timed(fn, seconds / 2, sync, 1)
        emit(*timed(fn, seconds, sync, 2))


def run_torch(name, shapes, seconds):
    import torch
    g = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=g) * 0.02) for s in shapes]
    ema = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.randn(p.shape, generator=g) * 0.01
    grads = [p.grad for p in params]
    n = sum(p.numel() for p in params)
    flat = torch.empty(n)
    views = []
    o = 0
    for p in params:
        views.append(flat[o:o + p.numel()])
        o += p.numel()
    shaped = [v.view(p.shape) for v, p in zip(views, params)]
    data = [p.detach() for p in params]

    def t(op, fn):
        row("torch", name, op, shapes, fn, seconds)

    with torch.no_grad():
        t("flatten_new", lambda: torch.nn.utils.parameters_to_vector(params))
        t("flatten_into", lambda: torch.cat([d.view(-1) for d in data], out=flat))
        t("restructure_new", lambda: [v.clone().view(p.shape) for v, p in zip(torch.split(flat, [p.numel() for p in params]), params)])
        t("restructure_into", lambda: torch._foreach_copy_(data, shaped))
        t("norm_l2", lambda: torch.nn.utils.get_total_norm(grads, 2.0, foreach=True).item())
        t("clip_norm", lambda: torch.nn.utils.clip_grad_norm_(params, 1e9, foreach=True).item())
        t("ema", lambda: torch._foreach_lerp_(ema, data, 0.005))
    fused = torch.optim.AdamW(params, lr=1e-5, weight_decay=0.01, fused=True)
    t("adamw", lambda: fused.step())
    if not OPS or "adamw_foreach" in OPS:
        foreach = torch.optim.AdamW(params, lr=1e-5, weight_decay=0.01, foreach=True)
        t("adamw_foreach", lambda: foreach.step())

    def step():
        torch.nn.utils.clip_grad_norm_(params, 1e9, foreach=True)
        fused.step()
        with torch.no_grad():
            torch._foreach_lerp_(ema, data, 0.005)
    t("step_clip_adamw_ema", step)


def run_jax(name, shapes, seconds):
    import jax, jax.numpy as jnp, numpy as np, optax
    from jax.flatten_util import ravel_pytree
    rng = np.random.default_rng(0)
    tree = {f"l{i:06d}": jnp.asarray(rng.standard_normal(s, dtype=np.float32) * 0.02) for i, s in enumerate(shapes)}
    grads = {k: v * 0.5 for k, v in tree.items()}
    sync = jax.block_until_ready

    def t(op, fn):
        row("jax", name, op, shapes, fn, seconds, sync)

    if len(shapes) > 2000:
        return  # compile time of one XLA program with that many operands is minutes: no JAX user would do it
    ravel = jax.jit(lambda x: ravel_pytree(x)[0])
    flat, unravel = ravel_pytree(tree)
    unr = jax.jit(unravel)
    t("flatten_new", lambda: ravel(tree))
    t("flatten_eager", lambda: ravel_pytree(tree)[0])
    t("restructure_new", lambda: unr(flat))
    gn = jax.jit(optax.global_norm)
    t("norm_l2", lambda: gn(grads))
    clip = optax.clip_by_global_norm(1e9)
    cs = clip.init(tree)
    cj = jax.jit(lambda g: clip.update(g, cs)[0])
    t("clip_norm", lambda: cj(grads))
    ema = [jax.tree.map(lambda x: x.copy(), tree)]
    ej = jax.jit(lambda e, p: optax.incremental_update(p, e, 0.005), donate_argnums=0)

    def do_ema():
        ema[0] = ej(ema[0], tree)
        return ema[0]
    t("ema", do_ema)
    opt = optax.adamw(1e-5, weight_decay=0.01)

    def one(p, s, g):
        u, s = opt.update(g, s, p)
        return optax.apply_updates(p, u), s
    oj = jax.jit(one, donate_argnums=(0, 1))
    box = [jax.tree.map(lambda x: x.copy(), tree), opt.init(tree)]

    def do_opt():
        box[0], box[1] = oj(box[0], box[1], grads)
        return box
    t("adamw", do_opt)
    chain = optax.chain(optax.clip_by_global_norm(1e9), optax.adamw(1e-5, weight_decay=0.01))

    def full(p, s, e, g):
        u, s = chain.update(g, s, p)
        p = optax.apply_updates(p, u)
        return p, s, optax.incremental_update(p, e, 0.005)
    fj = jax.jit(full, donate_argnums=(0, 1, 2))
    b3 = [jax.tree.map(lambda x: x.copy(), tree), chain.init(tree), jax.tree.map(lambda x: x.copy(), tree)]

    def do_full():
        b3[0], b3[1], b3[2] = fj(b3[0], b3[1], b3[2], grads)
        return b3
    t("step_clip_adamw_ema", do_full)


def run_numpy(name, shapes, seconds):
    import numpy as np
    rng = np.random.default_rng(0)
    tree = [rng.standard_normal(s, dtype=np.float32) for s in shapes]
    flat = np.empty(sum(a.size for a in tree), np.float32)
    other = flat.copy()

    def t(op, fn):
        row("numpy", name, op, shapes, fn, seconds)
    t("flatten_new", lambda: np.concatenate([a.ravel() for a in tree]))
    t("flatten_into", lambda: np.concatenate([a.ravel() for a in tree], out=flat))
    t("norm_l2", lambda: math.sqrt(sum(float(np.dot(a.ravel(), a.ravel())) for a in tree)))
    t("memcpy_flat", lambda: np.copyto(other, flat))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--trees", default="mlp,resnet50,gpt2,small10k")
    ap.add_argument("--peers", default="numpy,torch,jax")
    ap.add_argument("--ops", default="")
    ap.add_argument("--seconds", type=float, default=1.0)
    ap.add_argument("--turns", action="store_true")
    a = ap.parse_args()
    global TURNS
    TURNS = a.turns
    OPS.update(filter(None, a.ops.split(",")))
    trees = json.load(open(os.path.join(HERE, "trees.json")))
    trees["small10k"] = [[8, 8]] * 10_000
    for name in a.trees.split(","):
        shapes = [tuple(s) for s in trees[name]]
        for peer in a.peers.split(","):
            try:
                {"torch": run_torch, "jax": run_jax, "numpy": run_numpy}[peer](name, shapes, a.seconds)
            except ImportError as e:
                print(f"{peer}: left out ({e})", file=sys.stderr)


if __name__ == "__main__":
    main()
