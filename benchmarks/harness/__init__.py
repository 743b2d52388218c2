"""How the suites measure: contenders, workloads, turns."""
