"""The machine under the process: its CPUs, its files and its memory."""
