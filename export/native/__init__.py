"""Export to the native engine: deployment forms as flat plans with int8 weights."""
