"""Mistakes that a test has to notice: each module lists those of one kind, `python -m tests.mistakes` plants them."""
