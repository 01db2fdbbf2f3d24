"""Federated training: hospitals train one network together, and no image leaves a hospital."""
