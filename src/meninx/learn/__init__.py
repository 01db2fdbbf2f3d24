"""One training loop for models, shadow models, clients and adversaries."""
