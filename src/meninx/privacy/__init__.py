"""Differential privacy: plan, sampling, clipping, noise, accounting and ledger.

No file, no terminal, no logger.

Where to look::

    plan         Plan: sampler, clipping, noise and accounted event in one frozen object (what it may hold:
        rules)
    calibration  calibrate(...): any one of epsilon, noise_multiplier and steps from the others
    sampling     PoissonSampler: who takes part in a step; cyclic: in turns, for correlated noise
    clipping/    clipped_gradient_sum(...): the sum of clipped per-unit gradients, in one forward and one
    backward pass
    threshold    Threshold: the bound of adaptive clipping, moved by noisy counts
    noise        GaussianNoise: the noise of a step; correlated: BandedNoise
    accounting   what it costs: epsilon of phases, by privacy loss distributions (of one step: losses)
    composition  compose(ledgers): one epsilon for several runs on the same units
    ledger       Ledger: what was really run, hash-chained, over resumes and configs
    tradeoff     the same cost as attack advantage, TPR at fixed FPR, reconstruction robustness
"""
