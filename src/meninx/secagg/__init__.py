"""Secure aggregation: the sum of what the sites send, and nothing else of them."""
