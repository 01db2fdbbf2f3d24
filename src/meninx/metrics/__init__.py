"""What a model is worth, with intervals over patients; numpy only."""
