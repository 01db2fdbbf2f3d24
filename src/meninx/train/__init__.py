"""The training stage: recipes, evaluation, sweeps, export."""
