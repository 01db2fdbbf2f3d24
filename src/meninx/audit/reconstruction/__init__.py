"""``meninx audit reconstruct``: what images an attacker gets from gradients, against a null and a bound."""
