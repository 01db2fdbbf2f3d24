"""Differential privacy: plan, sampling, clipping, noise, accounting and ledger; no file, no terminal, no logger.

Where to look::

    plan         Plan: sampler, clipping, noise and accounted event in one frozen object
    calibration  calibrate(...): any one of epsilon, noise_multiplier and steps from the others
    sampling     PoissonSampler: who takes part in a step
    clipping/    clipped_gradient_sum(...): the sum of clipped per-unit gradients
    noise        GaussianNoise: the noise of a step
    accounting   what it costs: epsilon of phases, by privacy loss distributions
    ledger       Ledger: what was really run, hash-chained, over resumes and configs
    tradeoff     the same cost as attack advantage, TPR at fixed FPR, reconstruction robustness
"""
