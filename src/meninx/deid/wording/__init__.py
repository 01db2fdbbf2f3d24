"""Free text and terms: which words may stay, and how a phrase keeps its meaning."""
