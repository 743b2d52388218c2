"""Export to the native engine: deployment forms as flat plans, in fp32 and int8."""
