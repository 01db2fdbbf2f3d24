"""Differential privacy: the plan, sampling, clipping, noise, accounting and the ledger; no file, no terminal."""
