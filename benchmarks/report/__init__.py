"""Turn result files of the benchmarks into a Markdown table and one self-contained HTML page."""
