"""The utility study: meninx's recipes, Opacus and non-private training for the same CPU seconds.

All arms use the same splits.
"""
