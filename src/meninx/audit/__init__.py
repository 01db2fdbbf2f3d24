"""The audit stage: what theory bounds, and whether a run keeps what it claims."""
