"""The whole way on a synthetic cohort, through the public API."""
