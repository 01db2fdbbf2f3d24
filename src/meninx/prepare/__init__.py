"""From cleaned images to one dataset: labels, export, splits by patient, sites."""
