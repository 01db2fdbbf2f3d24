"""The review: layouts of text in the pixels, the votes about them, and the page that collects votes."""
