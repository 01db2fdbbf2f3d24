"""The full pipeline on a synthetic cohort, through the public API."""
