"""The utility study: meninx's recipes, plain Opacus and non-private training on the same splits for the same CPU seconds."""
