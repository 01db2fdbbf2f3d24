"""One self-contained HTML page, a model card, and the figures in them."""
