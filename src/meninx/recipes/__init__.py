"""Packaged recipes: one TOML file an experiment."""
