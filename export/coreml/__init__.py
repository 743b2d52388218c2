"""Core ML packages that the Neural Engine can take, proved before they reach a Mac."""
