#!/usr/bin/env python3
"""Writes torch.json, optax.json, extremes.json, muon.json, complex.json and doubles.json beside itself: what PyTorch and Optax do in 20 steps on fixed parameters and
gradients, and what PyTorch does with gradients whose squares overflow.

    pip install -r requirements.txt
    python generate.py

Each record is a rule of ours, the fields in which it differs from its defaults, and all parameters after each step. Fields that a
record does not set are left to the peer's defaults too, so that ours are compared with them. PyTorch runs its plain loop over tensors
(no foreach, no fused kernel); Optax, where PyTorch has no such rule, runs in f32 with the bias corrections in f64, since
1 - 0.999 ** t in f32 is off by 1e-5 and says nothing of the rule.

complex.json is what PyTorch does to complex parameters, as the real numbers that `torch.view_as_real` shows of them: a last axis of 2.

doubles.json has the records of torch.json, optax.json, muon.json and complex.json in f64 throughout, by their names, after some of the steps: parameters
and gradients are the same numbers, widened. PyTorch adds 1e-6 to a norm that it clips by, which is seen in f64 and left out there.

Every record but those of extremes.json is run a second time in f64. Values that stray from that by more than a third of our tests' tolerance would say more about
rounding than about the rule, and are refused.

PyTorch's Muon runs Newton-Schulz in bfloat16, whatever the parameters are. muon.json has it twice: with the private function that does
so replaced by a copy without the cast, which is compared as closely as all others, and as it is, which is compared loosely.
"""
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

jax.config.update("jax_enable_x64", True)  # f32 leaves stay f32; scalars such as the bias corrections become f64

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS = 20
LEAVES = [("weight", [4, 3]), ("bias", [5]), ("scale", [])]
SIZES = [12, 5, 1]
# Steps at which a leaf has no gradient. The scale starts late; at step 14 there is none at all.
ABSENT = {"weight": {8, 14}, "bias": {3, 4, 11, 14}, "scale": {0, 8, 14, 15}}
ALLOWED = 1e-6


# The inputs of extremes.json: one leaf, an element for each size. Squares overflow f32 from 1.85e19 on, and a thousandth of them from
# 5.8e20 on.

SIZES_OF_EXTREMES = [1.0, 1.8e19, 1.9e19, 1e20, 5.7e20, 5.9e20, 1e25, 1e30, 1e37]
SIGNS_OF_EXTREMES = [1, 1, -1, 1, 1, 1, -1, -1]


class Extremes:
    LEAVES = [("weight", [len(SIZES_OF_EXTREMES)])]

    @staticmethod
    def initial():
        return [np.full(len(SIZES_OF_EXTREMES), 0.5, np.float32)]

    @staticmethod
    def gradients(with_absent):
        return [[np.array(SIZES_OF_EXTREMES, np.float32) * np.float32(sign)] for sign in SIGNS_OF_EXTREMES]


# The inputs of the others.

def initial():
    """-8/7 to 9/7 in a scattered order; the scale is 0, so that its norm is."""
    values = np.array([((5 * i) % 18 - 8) / 7 for i in range(18)], np.float32)
    values[17] = 0
    return split(values)


def gradient(step):
    """Sizes from 1e-4 to 10, one for each element; signs that change; element 4 is 0 throughout, the others now and then."""
    i = np.arange(18)
    size = 10.0 ** (-4 + 5 * ((7 * i + 3) % 18) / 17)
    share = 0.5 + ((3 * step + 5 * i) % 7) / 7
    sign = np.where((step * (i % 5 + 1) // 4) % 2 == 0, 1, -1)
    zero = ((step + i) % 6 == 0) | (i == 4)
    return split(np.where(zero, 0, sign * share * size).astype(np.float32))


def split(values):
    leaves = np.split(values, np.cumsum(SIZES)[:-1])
    return [leaf.reshape(shape) for leaf, (_, shape) in zip(leaves, LEAVES)]


def gradients(with_absent):
    for step in range(STEPS):
        leaves = gradient(step)
        yield [None if with_absent and step in ABSENT[name] else leaf for (name, _), leaf in zip(LEAVES, leaves)]


# The peers. Both take a record and an element type and give the flat parameters after each step.

TORCH = {"Sgd": torch.optim.SGD, "AdaGrad": torch.optim.Adagrad, "AdaDelta": torch.optim.Adadelta, "RmsProp": torch.optim.RMSprop,
         "Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "NAdam": torch.optim.NAdam, "RAdam": torch.optim.RAdam,
         "Adamax": torch.optim.Adamax, "Rprop": torch.optim.Rprop, "Muon": torch.optim.Muon}
FUSED = ("Sgd", "AdaGrad", "Adam", "AdamW")


def run_extremes(record, dtype):
    return run_torch(record, dtype, Extremes.LEAVES, Extremes.initial(), Extremes.gradients(False))


def run_complex(record, dtype):
    def seen_as_real(leaves):
        return leaves and [np.stack([leaf.real, leaf.imag], -1) for leaf in leaves]

    as_complex = {"f32": torch.complex64, "f64": torch.complex128}[dtype]
    steps = run_torch(record, as_complex, Complex.LEAVES, Complex.initial(), Complex.gradients(record["absent"]))
    for params, averages in steps:
        yield seen_as_real(params), seen_as_real(averages)


def run_torch(record, dtype, leaves=None, start=None, steps=None):
    leaves, start, steps = leaves or LEAVES, start or initial(), steps or gradients(record["absent"])
    dtype = {"f32": torch.float32, "f64": torch.float64}.get(dtype, dtype)
    params = [tensor(leaf, dtype, torch.nn.Parameter) for leaf in start]
    optimizer = torch_optimizer(record, params, leaves)
    model = torch.nn.ParameterList(params)
    average = None
    if "ema" in record:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(record["ema"]["decay"]))
    for step, grads in enumerate(steps):
        for param, grad in zip(params, grads):
            param.grad = None if grad is None else tensor(grad, dtype)
        if "clip_norm" in record and record.get("exact"):
            clip_exactly([param.grad for param in params if param.grad is not None], record["clip_norm"])
        elif "clip_norm" in record:
            torch.nn.utils.clip_grad_norm_(params, record["clip_norm"], foreach=False)
        if "clip_value" in record and any(grad is not None for grad in grads):  # it fails where there is none
            torch.nn.utils.clip_grad_value_(params, record["clip_value"], foreach=False)
        for change in changes(record, step):
            for group in optimizer.param_groups:
                group["lr"] = change["lr"]
        optimizer.step()
        if average is not None:
            average.update_parameters(model)
        averages = None if average is None else [leaf.numpy(force=True).copy() for leaf in average.module.parameters()]
        yield [param.numpy(force=True).copy() for param in params], averages


def tensor(leaf, dtype, kind=torch.Tensor):
    """Complex numbers out of a last axis of two, if that is the type."""
    if dtype.is_complex:
        return kind(torch.view_as_complex(torch.tensor(leaf, dtype=dtype.to_real())))
    return kind(torch.tensor(leaf, dtype=dtype))


def clip_exactly(grads, most):
    norm = torch.nn.utils.get_total_norm(grads, foreach=False)
    for grad in grads:
        grad.mul_(torch.clamp(most / norm, max=1.0))


class Complex:
    """The numbers as above, in pairs; the last is absent where the scale is."""
    LEAVES = [("weight", [2, 3, 2]), ("bias", [2, 2]), ("scale", [2])]

    @staticmethod
    def paired(leaves):
        weight, bias, scale = leaves
        pair = None if bias is None or scale is None else np.append(bias[4:], scale)
        return [None if weight is None else weight.reshape(2, 3, 2), None if bias is None else bias[:4].reshape(2, 2), pair]

    @staticmethod
    def initial():
        return Complex.paired(initial())

    @staticmethod
    def gradients(with_absent):
        return map(Complex.paired, gradients(with_absent))


class Muon:
    """A square, a wide and a tall matrix; gradients as above."""
    LEAVES = [("square", [3, 3]), ("wide", [2, 5]), ("tall", [6, 2])]

    @staticmethod
    def split(values):
        sizes = [rows * columns for _, (rows, columns) in Muon.LEAVES]
        leaves = np.split(values.astype(np.float32), np.cumsum(sizes)[:-1])
        return [leaf.reshape(shape) for leaf, (_, shape) in zip(leaves, Muon.LEAVES)]

    @staticmethod
    def initial():
        return Muon.split(np.array([((5 * i) % 31 - 15) / 11 for i in range(31)]))

    @staticmethod
    def gradients(with_absent):
        i = np.arange(31)
        for step in range(STEPS):
            yield Muon.split(np.sin(1.0 + 0.7 * i * (1 + step % 3) + 0.3 * step) * (1 + i % 4))


def newton_schulz_without_cast(grad, ns_coefficients, ns_steps, eps):
    """torch.optim._muon's _zeropower_via_newtonschulz, but for `.bfloat16()`."""
    a, b, c = ns_coefficients
    ortho = grad.T if grad.size(0) > grad.size(1) else grad
    ortho = ortho / ortho.norm().clamp(min=eps)
    for _ in range(ns_steps):
        gram = ortho @ ortho.T
        update = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        ortho = torch.addmm(ortho, update, ortho, beta=a)
    return ortho.T if grad.size(0) > grad.size(1) else ortho


def run_muon(record, dtype):
    import torch.optim._muon as module
    original = module._zeropower_via_newtonschulz
    if not record["bfloat16"]:
        module._zeropower_via_newtonschulz = newton_schulz_without_cast
    try:
        yield from run_torch(record, dtype, Muon.LEAVES, Muon.initial(), Muon.gradients(False))
    finally:
        module._zeropower_via_newtonschulz = original


def torch_optimizer(record, params, leaves):
    plain = ({} if record["rule"] == "Muon" else {"foreach": False}) | ({"fused": False} if record["rule"] in FUSED else {})
    overrides = record.get("groups", {})
    groups = [{"params": [param], **overrides.get(name, {})} for (name, _), param in zip(leaves, params)]
    config = {{"adjust_lr": "adjust_lr_fn"}.get(field, field): value for field, value in record["config"].items()}
    return TORCH[record["rule"]](groups, **config, **plain)


OPTAX = {"AdamW": optax.adamw, "Lion": optax.lion, "AdaBelief": optax.adabelief, "OAdam": optax.optimistic_adam_v2, "Lamb": optax.lamb,
         "Lars": optax.lars}
LR = 1e-3  # Optax has no default


def run_optax(record, dtype):
    dtype = {"f32": jnp.float32, "f64": jnp.float64}[dtype]
    params = [jnp.asarray(leaf, dtype) for leaf in initial()]
    optimizer = optax_optimizer(record)
    state = optimizer.init(params)
    average = optax.ema(record["ema"]["decay"], debias=record["ema"]["debias"]) if "ema" in record else None
    average_state = average.init(params) if average else None
    averages = None
    for grads in gradients(False):
        updates, state = optimizer.update([jnp.asarray(leaf, dtype) for leaf in grads], state, params)
        params = optax.apply_updates(params, updates)
        assert all(leaf.dtype == dtype for leaf in params)
        if average:
            averages, average_state = average.update(params, average_state)
        yield [np.asarray(leaf) for leaf in params], averages and [np.asarray(leaf) for leaf in averages]


def optax_optimizer(record):
    config = dict(record["config"])
    lr = config.pop("lr", LR)
    if "betas" in config:
        config["b1"], config["b2"] = config.pop("betas")
    by_step = {change["step"]: change["lr"] / lr for change in record.get("set_lr", [])}
    schedule = optax.piecewise_constant_schedule(lr, by_step) if by_step else lr
    rule = OPTAX[record["rule"]](schedule, **config)
    return optax.chain(optax.clip_by_global_norm(record["clip_norm"]), rule) if "clip_norm" in record else rule


def changes(record, step):
    return [change for change in record.get("set_lr", []) if change["step"] == step]


# The records. A name says in what it differs from the peer's defaults.

def torch_records():
    def record(name, rule, config=None, absent=True, **more):
        return {"name": name, "rule": rule, "peer": "torch", "config": config or {}, "absent": absent, **more}

    faster = {"lr": 0.05}
    return [
        record("sgd", "Sgd"),
        record("sgd lr", "Sgd", faster),
        record("sgd weight_decay", "Sgd", {**faster, "weight_decay": 0.1}),
        record("sgd momentum", "Sgd", {**faster, "momentum": 0.9}),
        record("sgd momentum dampening", "Sgd", {**faster, "momentum": 0.9, "dampening": 0.3}),
        record("sgd nesterov", "Sgd", {"lr": 0.02, "momentum": 0.9, "nesterov": True}),
        record("sgd nesterov weight_decay", "Sgd", {**faster, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
        record("sgd momentum dampening weight_decay", "Sgd", {**faster, "momentum": 0.7, "dampening": 0.5, "weight_decay": 0.2}),
        record("sgd momentum set_lr", "Sgd", {**faster, "momentum": 0.9}, set_lr=[{"step": 10, "lr": 0.002}]),
        record("sgd momentum groups", "Sgd", {**faster, "momentum": 0.9}, groups={"bias": {"lr": 0.005}, "scale": {"lr": 0.2}}),
        record("sgd clip_value", "Sgd", faster, clip_value=0.5),
        record("sgd clip_norm", "Sgd", {**faster, "momentum": 0.9}, clip_norm=1.0),
        record("adam", "Adam"),
        record("adam lr", "Adam", faster),
        record("adam without absent", "Adam", faster, absent=False),
        record("adam betas eps", "Adam", {"lr": 0.02, "betas": [0.5, 0.9], "eps": 1e-3}),
        record("adam weight_decay", "Adam", {**faster, "weight_decay": 0.1}),
        record("adam amsgrad", "Adam", {"lr": 0.05, "betas": [0.9, 0.5], "amsgrad": True}),
        record("adam amsgrad weight_decay", "Adam", {**faster, "betas": [0.8, 0.6], "amsgrad": True, "weight_decay": 0.05}),
        record("adam set_lr", "Adam", {"lr": 0.02}, set_lr=[{"step": 10, "lr": 0.001}]),
        record("adam groups", "Adam", {"lr": 0.02}, groups={"weight": {"lr": 0.001}}),
        record("adam clip_value", "Adam", faster, clip_value=0.5),
        record("adam clip_norm", "Adam", faster, clip_norm=1.0),
        record("adamw", "AdamW"),
        record("adamw lr", "AdamW", {"lr": 0.03}),
        record("adamw big weight_decay", "AdamW", {**faster, "weight_decay": 2.0}),
        record("adamw without weight_decay", "AdamW", {**faster, "weight_decay": 0.0}),
        record("adamw amsgrad", "AdamW", {**faster, "betas": [0.9, 0.5], "amsgrad": True}),
        record("adamw clip_norm ema", "AdamW", faster, absent=False, clip_norm=1.0, ema={"decay": 0.9, "debias": False}),
        record("adamw ema", "AdamW", faster, absent=False, ema={"decay": 0.9, "debias": False}),
        record("nadam", "NAdam"),
        record("nadam weight_decay", "NAdam", {"lr": 0.02, "weight_decay": 0.1}),
        record("nadam decoupled_weight_decay", "NAdam", {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True}),
        record("nadam momentum_decay", "NAdam", {"lr": 0.02, "momentum_decay": 0.3}),
        record("nadam without momentum_decay", "NAdam", {"lr": 0.02, "momentum_decay": 0.0, "betas": [0.8, 0.99], "eps": 1e-5}),
        record("radam", "RAdam"),
        record("radam lr", "RAdam", {"lr": 0.02}),
        record("radam weight_decay", "RAdam", {"lr": 0.02, "weight_decay": 0.1}),
        record("radam decoupled_weight_decay", "RAdam", {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True}),
        record("radam betas eps", "RAdam", {"lr": 0.02, "betas": [0.8, 0.9], "eps": 1e-4}),
        record("radam never rectified", "RAdam", {"lr": 0.02, "betas": [0.9, 0.6]}),
        record("adamax", "Adamax"),
        record("adamax betas eps", "Adamax", {"lr": 0.02, "betas": [0.8, 0.9], "eps": 1e-4}),
        record("adamax weight_decay", "Adamax", {"lr": 0.02, "weight_decay": 0.1}),
        record("adagrad", "AdaGrad"),
        record("adagrad lr_decay", "AdaGrad", {**faster, "lr_decay": 0.1}),
        record("adagrad weight_decay", "AdaGrad", {**faster, "weight_decay": 0.1}),
        record("adagrad initial_accumulator_value eps", "AdaGrad", {**faster, "initial_accumulator_value": 0.1, "eps": 1e-3}),
        record("adadelta", "AdaDelta"),
        record("adadelta rho eps lr", "AdaDelta", {"lr": 0.5, "rho": 0.6, "eps": 1e-3}),
        record("adadelta weight_decay", "AdaDelta", {"weight_decay": 0.1}),
        record("rmsprop", "RmsProp"),
        record("rmsprop alpha eps", "RmsProp", {"alpha": 0.9, "eps": 1e-4}),
        record("rmsprop momentum", "RmsProp", {"lr": 0.002, "momentum": 0.9}),
        record("rmsprop centered", "RmsProp", {"centered": True}),
        record("rmsprop centered momentum", "RmsProp", {"lr": 0.005, "centered": True, "momentum": 0.9}),
        record("rmsprop weight_decay", "RmsProp", {"weight_decay": 0.1}),
        record("rmsprop centered momentum weight_decay alpha", "RmsProp",
               {"lr": 0.005, "centered": True, "momentum": 0.5, "weight_decay": 0.1, "alpha": 0.8}),
        record("rprop", "Rprop"),
        record("rprop lr etas", "Rprop", {"lr": 0.02, "etas": [0.3, 1.5]}),
        record("rprop step_sizes", "Rprop", {"lr": 0.02, "step_sizes": [0.012, 0.022]}),
    ]


def extremes_records():
    """Those of PyTorch's rules that stay finite: the centred RMSprop becomes NaN there."""
    rules = ["Sgd", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "AdaGrad", "AdaDelta", "RmsProp", "Rprop"]
    return [{"name": f"{rule} extremes", "rule": rule, "peer": "torch", "config": {}, "absent": False} for rule in rules]


def muon_records():
    def record(name, config=None, bfloat16=False):
        return {"name": name, "rule": "Muon", "peer": "torch", "config": config or {}, "absent": False, "bfloat16": bfloat16}

    faster = {"lr": 0.01}
    return [
        record("muon"),
        record("muon bfloat16", faster, True),
        record("muon lr weight_decay", {**faster, "weight_decay": 0.3}),
        record("muon without nesterov", {**faster, "nesterov": False}),
        record("muon momentum", {**faster, "momentum": 0.8}),
        record("muon match_rms_adamw", {**faster, "adjust_lr": "match_rms_adamw"}),
        record("muon original", {**faster, "adjust_lr": "original"}),
        record("muon ns_coefficients ns_steps", {**faster, "ns_coefficients": [2.0, -1.5, 0.5], "ns_steps": 8}),
        record("muon match_rms_adamw bfloat16", {**faster, "adjust_lr": "match_rms_adamw"}, True),
    ]


def complex_records():
    """Every rule of PyTorch that takes complex numbers, by the fields that a record of the real ones has too; Muon takes none."""
    names = ["sgd momentum", "sgd nesterov weight_decay", "sgd clip_norm", "adam lr", "adam amsgrad weight_decay", "adam clip_norm", "adamw",
             "adamw amsgrad", "adamw clip_norm ema", "nadam weight_decay", "radam weight_decay", "adamax betas eps", "adagrad lr_decay",
             "adadelta rho eps lr", "rmsprop centered momentum", "rprop lr etas"]
    by_name = {record["name"]: record for record in torch_records()}
    return [{**by_name[name], "name": f"{name} complex"} for name in names]


def optax_records():
    def record(name, rule, config=None, **more):
        return {"name": name, "rule": rule, "peer": "optax", "config": config or {}, "absent": False, **more}

    return [
        record("lion", "Lion"),
        record("lion lr betas", "Lion", {"lr": 0.01, "betas": [0.6, 0.8]}),
        record("lion without weight_decay", "Lion", {"lr": 0.01, "weight_decay": 0.0}),
        record("lion weight_decay", "Lion", {"lr": 0.01, "weight_decay": 0.5}),
        record("lion set_lr", "Lion", {"lr": 0.01}, set_lr=[{"step": 10, "lr": 0.002}]),
        record("adabelief", "AdaBelief"),
        record("adabelief lr", "AdaBelief", {"lr": 0.01}),
        record("adabelief betas eps eps_root", "AdaBelief", {"lr": 0.01, "betas": [0.8, 0.95], "eps": 1e-4, "eps_root": 1e-6}),
        record("adabelief nesterov", "AdaBelief", {"lr": 0.01, "nesterov": True}),
        record("oadam", "OAdam"),
        record("oadam lr", "OAdam", {"lr": 0.01}),
        record("oadam without nesterov", "OAdam", {"lr": 0.01, "nesterov": False}),
        record("oadam alpha beta", "OAdam", {"lr": 0.01, "alpha": 0.7, "beta": 0.4}),
        record("oadam betas eps eps_root", "OAdam", {"lr": 0.01, "betas": [0.8, 0.95], "eps": 1e-4, "eps_root": 1e-6}),
        record("oadam set_lr", "OAdam", {"lr": 0.01}, set_lr=[{"step": 10, "lr": 0.002}]),
        record("lamb", "Lamb"),
        record("lamb lr", "Lamb", {"lr": 0.02}),
        record("lamb weight_decay", "Lamb", {"lr": 0.02, "weight_decay": 0.1}),
        record("lamb betas eps eps_root", "Lamb", {"lr": 0.02, "betas": [0.8, 0.95], "eps": 1e-4, "eps_root": 1e-6}),
        record("lars", "Lars"),
        record("lars lr", "Lars", {"lr": 2.0}),
        record("lars weight_decay trust_coefficient eps", "Lars",
               {"lr": 0.5, "weight_decay": 0.1, "trust_coefficient": 0.02, "eps": 0.01}),
        record("lars without momentum", "Lars", {"lr": 0.5, "momentum": 0.0, "trust_coefficient": 0.02}),
        record("lars nesterov", "Lars", {"lr": 0.5, "trust_coefficient": 0.02, "momentum": 0.8, "nesterov": True}),
        record("lars set_lr", "Lars", {"lr": 0.5, "trust_coefficient": 0.02}, set_lr=[{"step": 10, "lr": 0.1}]),
        record("adamw clip_by_global_norm", "AdamW", {"lr": 0.01, "weight_decay": 0.1}, clip_norm=1.0),
        record("adamw ema", "AdamW", {"lr": 0.01, "weight_decay": 0.1}, ema={"decay": 0.9, "debias": True}),
    ]


# To text.

def number(x):
    """The shortest text that is this f32, also by way of f64."""
    short = x == 0 or 1e-4 <= abs(x) < 1e7
    text = np.format_float_positional(x, trim="-") if short else np.format_float_scientific(x, trim="-", exp_digits=1)
    assert np.float32(float(text)).tobytes() == np.float32(x).tobytes(), text
    return text


def numbers(leaf):
    return "null" if leaf is None else "[" + ",".join(number(x) for x in np.ravel(leaf)) + "]"


def lines(rows):
    return "[\n" + ",\n".join(rows) + "\n]"


def flat(leaves):
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def text_of(record, run):
    narrow = list(run(record, "f32"))
    if run is run_extremes:
        assert all(np.isfinite(flat(params)).all() for params, _ in narrow), record["name"]
        return fields_of(record, narrow)
    if record.get("bfloat16"):  # rounding is what it is about
        return fields_of(record, narrow)
    wide = list(run(record, "f64"))
    strays = max(stray(pair, wide_pair) for pair, wide_pair in zip(narrow, wide))
    print(f"{record['peer']}  {record['name']:48} {strays:.1e}")
    assert strays <= ALLOWED, "too much rounding: choose other settings"
    return fields_of(record, narrow)


def fields_of(record, narrow):
    fields = [json.dumps(record)[:-1], '"parameters": ' + lines(numbers(flat(params)) for params, _ in narrow)]
    if "ema" in record:
        fields.append('"averages": ' + lines(numbers(flat(averages)) for _, averages in narrow))
    return ", ".join(fields) + "}"


def stray(narrow, wide):
    """The largest difference, of max(|value|, 0.1), between the parameters (and averages) of two runs."""
    pairs = [(flat(a), flat(b)) for a, b in zip(narrow, wide) if a is not None]
    return max(np.max(np.abs(a - b) / np.maximum(np.abs(b), 0.1)) for a, b in pairs)


def by_leaf(leaves):
    return "[" + ",".join(map(numbers, leaves)) + "]"


def write(name, records, run, leaves=LEAVES, initial=initial, gradients=gradients):
    head = {"leaves": [{"path": path, "shape": shape} for path, shape in leaves]}
    parts = [json.dumps(head)[:-1],
             '"initial": ' + by_leaf(initial()),
             '"gradients": ' + lines(map(by_leaf, gradients(False))),
             '"gradients_with_absent": ' + lines(map(by_leaf, gradients(True))),
             '"records": ' + lines(text_of(record, run) for record in records) + "}"]
    text = ",\n".join(parts) + "\n"
    json.loads(text)
    with open(os.path.join(HERE, name), "w") as file:
        file.write(text)


STEPS_IN_DOUBLES = [0, 4, 9, 19]


def write_doubles(name, files):
    torch.set_default_dtype(torch.float64)  # that of NAdam's product of momenta, which is f32 otherwise whatever the parameters are
    rows = []
    for records, run in files:
        for record in records:
            if record.get("bfloat16"):
                continue
            steps = list(run({**record, "exact": True}, "f64"))
            kept = [steps[step] for step in STEPS_IN_DOUBLES]
            fields = ['"name": ' + json.dumps(record["name"]), '"peer": ' + json.dumps(record["peer"])]
            fields.append('"parameters": ' + lines(doubles(params) for params, _ in kept))
            if "ema" in record:
                fields.append('"averages": ' + lines(doubles(averages) for _, averages in kept))
            rows.append("{" + ", ".join(fields) + "}")
    text = '{"steps": ' + json.dumps(STEPS_IN_DOUBLES) + ',\n"records": ' + lines(rows) + "}\n"
    json.loads(text)
    with open(os.path.join(HERE, name), "w") as file:
        file.write(text)


def doubles(leaves):
    values = flat(leaves)
    assert values.dtype == np.float64
    return json.dumps([float(x) for x in values], separators=(",", ":"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    write("torch.json", torch_records(), run_torch)
    write("extremes.json", extremes_records(), run_extremes, Extremes.LEAVES, Extremes.initial, Extremes.gradients)
    write("muon.json", muon_records(), run_muon, Muon.LEAVES, Muon.initial, Muon.gradients)
    write("complex.json", complex_records(), run_complex, Complex.LEAVES, Complex.initial, Complex.gradients)
    write("optax.json", optax_records(), run_optax)
    write_doubles("doubles.json", [(torch_records(), run_torch), (optax_records(), run_optax), (muon_records(), run_muon),
                                   (complex_records(), run_complex)])
