"""Medical images from the archive to a privately trained model, and in numbers what was protected."""
