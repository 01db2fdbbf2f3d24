"""Networks by name, 2-D and 3-D, all of them fit for per-sample gradients."""
