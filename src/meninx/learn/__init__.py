"""One training loop: networks with and without differential privacy, in one process or several."""
