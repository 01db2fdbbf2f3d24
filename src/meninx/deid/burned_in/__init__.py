"""Text that is burned into pixels: which images may hold it, which lines identify, and what is filled."""
