//! All rules with their options and twins; a new one joins every test with one line.

use std::fmt::Debug;

use flatleaf::optim::{
    Accumulate, AdaBelief, AdaDelta, AdaGrad, Adam, AdamW, Adamax, ClipNorm, ClipNormPerLeaf,
    ClipValue, Ema, Lamb, Lars, Lion, Muon, NAdam, OAdam, RAdam, RmsProp, Rprop, Rule, RuleFor,
    Sgd, SignDecay, Swa, WeightDecay,
};

use crate::naive::{self, Twin};

/// A fact about rules of any type.
pub(crate) trait Law {
    fn holds<R: RuleFor<f64> + Debug>(&self, rule: R, twin: Twin<R>);
}

/// Checks a law with every rule, and with each of its options.
pub(crate) fn every(law: &impl Law) {
    descent(law);
    relatives_of_adam(law);
    by_past_squares(law);
    by_sign(law);
    in_proportion(law);
    on_matrices(law);
    stages(law);
}

/// A fact about rules and chains of them, whatever they compute.
pub(crate) trait AnyLaw {
    fn holds<R: Rule + Debug>(&self, rule: R);
}

struct Single<'l, L>(&'l L);

impl<L: AnyLaw> Law for Single<'_, L> {
    fn holds<R: Rule + Debug>(&self, rule: R, _: Twin<R>) {
        self.0.holds(rule);
    }
}

/// Checks a law with every rule and each of its options, and with chains of all kinds: norms of the
/// gradient, behind stages that keep state, over all leaves and over each, behind a closed gate,
/// twice, and behind matrices.
pub(crate) fn every_rule_and_chain(law: &impl AnyLaw) {
    every_rule(law);
    chains(law);
}

/// Checks a law with every rule and each of its options only.
pub(crate) fn every_rule(law: &impl AnyLaw) {
    every(&Single(law));
}

/// Checks a law with the chains only.
pub(crate) fn chains(law: &impl AnyLaw) {
    let clip = ClipNorm {
        max: 0.7,
        ..ClipNorm::default()
    };
    let per_leaf = ClipNormPerLeaf {
        max: 0.3,
        ..ClipNormPerLeaf::default()
    };
    let sgd = Sgd {
        lr: LR,
        momentum: 0.9,
        ..Sgd::default()
    };
    let muon = Muon {
        lr: LR,
        ..Muon::default()
    };
    let decay = WeightDecay { weight_decay: 0.1 };
    let largest = ClipNorm {
        p: f64::INFINITY,
        ..clip
    };
    law.holds((clip, AdamW::default(), Ema::default()));
    law.holds((decay, clip, sgd));
    law.holds((clip, sgd, per_leaf));
    law.holds((sgd, clip, largest));
    law.holds((Accumulate { steps: 2 }, clip, Lamb::default()));
    law.holds((clip, Lars::default(), Ema::default()));
    law.holds((per_leaf, Accumulate { steps: 3 }, Lamb::default(), clip));
    law.holds((clip, muon, Ema::default()));
    law.holds((Accumulate { steps: 2 }, muon, per_leaf));
}

/// Large enough for the options to show.
const LR: f64 = 0.05;

fn descent(law: &impl Law) {
    let sgd = Sgd {
        lr: LR,
        ..Sgd::default()
    };
    law.holds(sgd, naive::sgd);
    law.holds(
        Sgd {
            weight_decay: 0.1,
            ..sgd
        },
        naive::sgd,
    );
    law.holds(
        Sgd {
            momentum: 0.9,
            ..sgd
        },
        naive::sgd,
    );
    law.holds(
        Sgd {
            momentum: 0.9,
            dampening: 0.3,
            weight_decay: 0.1,
            ..sgd
        },
        naive::sgd,
    );
    law.holds(
        Sgd {
            momentum: 0.9,
            nesterov: true,
            ..sgd
        },
        naive::sgd,
    );
}

fn relatives_of_adam(law: &impl Law) {
    let adam = Adam {
        lr: LR,
        ..Adam::default()
    };
    law.holds(adam, naive::adam);
    law.holds(
        Adam {
            weight_decay: 0.1,
            ..adam
        },
        naive::adam,
    );
    law.holds(
        Adam {
            betas: (0.8, 0.5),
            amsgrad: true,
            ..adam
        },
        naive::adam,
    );
    let adamw = AdamW {
        lr: LR,
        ..AdamW::default()
    };
    law.holds(adamw, naive::adamw);
    law.holds(
        AdamW {
            betas: (0.8, 0.5),
            amsgrad: true,
            weight_decay: 1.0,
            ..adamw
        },
        naive::adamw,
    );
    let nadam = NAdam {
        lr: LR,
        weight_decay: 0.1,
        ..NAdam::default()
    };
    law.holds(nadam, naive::nadam);
    law.holds(
        NAdam {
            decoupled_weight_decay: true,
            momentum_decay: 0.3,
            ..nadam
        },
        naive::nadam,
    );
    law.holds(
        NAdam {
            momentum_decay: 0.0,
            betas: (0.0, 0.9),
            ..nadam
        },
        naive::nadam,
    );
    let radam = RAdam {
        lr: LR,
        weight_decay: 0.1,
        ..RAdam::default()
    };
    law.holds(radam, naive::radam);
    law.holds(
        RAdam {
            decoupled_weight_decay: true,
            betas: (0.9, 0.6),
            ..radam
        },
        naive::radam,
    );
    let adamax = Adamax {
        lr: LR,
        ..Adamax::default()
    };
    law.holds(adamax, naive::adamax);
    law.holds(
        Adamax {
            betas: (0.8, 0.5),
            weight_decay: 0.1,
            ..adamax
        },
        naive::adamax,
    );
    let adabelief = AdaBelief {
        lr: LR,
        ..AdaBelief::default()
    };
    law.holds(adabelief, naive::adabelief);
    law.holds(
        AdaBelief {
            nesterov: true,
            eps: 1e-3,
            eps_root: 1e-4,
            ..adabelief
        },
        naive::adabelief,
    );
    let oadam = OAdam {
        lr: LR,
        ..OAdam::default()
    };
    law.holds(oadam, naive::oadam);
    law.holds(
        OAdam {
            nesterov: false,
            alpha: 0.5,
            beta: 2.0,
            eps_root: 1e-4,
            ..oadam
        },
        naive::oadam,
    );
}

fn by_past_squares(law: &impl Law) {
    let adagrad = AdaGrad {
        lr: LR,
        ..AdaGrad::default()
    };
    law.holds(adagrad, naive::adagrad);
    law.holds(
        AdaGrad {
            lr_decay: 0.2,
            weight_decay: 0.1,
            initial_accumulator_value: 0.5,
            ..adagrad
        },
        naive::adagrad,
    );
    law.holds(AdaDelta::default(), naive::adadelta);
    law.holds(
        AdaDelta {
            lr: 0.5,
            rho: 0.5,
            eps: 1e-3,
            weight_decay: 0.1,
        },
        naive::adadelta,
    );
    let rmsprop = RmsProp {
        lr: LR,
        alpha: 0.8,
        ..RmsProp::default()
    };
    law.holds(rmsprop, naive::rmsprop);
    law.holds(
        RmsProp {
            momentum: 0.9,
            ..rmsprop
        },
        naive::rmsprop,
    );
    law.holds(
        RmsProp {
            centered: true,
            weight_decay: 0.1,
            ..rmsprop
        },
        naive::rmsprop,
    );
    law.holds(
        RmsProp {
            centered: true,
            momentum: 0.9,
            ..rmsprop
        },
        naive::rmsprop,
    );
}

fn by_sign(law: &impl Law) {
    law.holds(
        Lion {
            lr: LR,
            ..Lion::default()
        },
        naive::lion,
    );
    law.holds(
        Lion {
            lr: LR,
            weight_decay: 1.0,
            betas: (0.6, 0.7),
        },
        naive::lion,
    );
    law.holds(Rprop::default(), naive::rprop);
    law.holds(
        Rprop {
            lr: LR,
            etas: (0.3, 1.7),
            step_sizes: (0.02, 0.08),
        },
        naive::rprop,
    );
}

fn in_proportion(law: &impl Law) {
    law.holds(
        Lamb {
            lr: LR,
            ..Lamb::default()
        },
        naive::lamb,
    );
    law.holds(
        Lamb {
            lr: LR,
            weight_decay: 0.1,
            eps_root: 1e-4,
            ..Lamb::default()
        },
        naive::lamb,
    );
    let lars = Lars {
        lr: LR,
        trust_coefficient: 0.5,
        ..Lars::default()
    };
    law.holds(lars, naive::lars);
    law.holds(
        Lars {
            nesterov: true,
            weight_decay: 0.1,
            eps: 0.1,
            ..lars
        },
        naive::lars,
    );
    law.holds(
        Lars {
            momentum: 0.0,
            ..lars
        },
        naive::lars,
    );
}

/// What they do where there is no matrix; `muon.rs` has the rest.
fn on_matrices(law: &impl Law) {
    let muon = Muon {
        lr: LR,
        ..Muon::default()
    };
    law.holds(muon, naive::muon);
    law.holds(
        Muon {
            adamw_lr_ratio: 1.0,
            adamw_betas: (0.8, 0.5),
            adamw_weight_decay: 1.0,
            ..muon
        },
        naive::muon,
    );
}

fn stages(law: &impl Law) {
    law.holds(ClipValue { max: 0.5 }, naive::clip_value);
    law.holds(ClipNorm::default(), naive::clip_norm);
    law.holds(ClipNormPerLeaf::default(), naive::clip_norm_per_leaf);
    law.holds(WeightDecay { weight_decay: 0.1 }, naive::weight_decay);
    law.holds(SignDecay { sign_decay: 0.07 }, naive::sign_decay);
    law.holds(Accumulate { steps: 3 }, naive::accumulate);
    law.holds(
        Ema {
            decay: 0.8,
            ..Ema::default()
        },
        naive::ema,
    );
    law.holds(
        Ema {
            decay: 0.3,
            ..Ema::default()
        },
        naive::ema,
    );
    law.holds(
        Ema {
            decay: 0.3,
            warm_up: true,
            debias: true,
        },
        naive::ema,
    );
    law.holds(Swa::default(), naive::swa);
    law.holds(Swa { start: 2, every: 3 }, naive::swa);
}
