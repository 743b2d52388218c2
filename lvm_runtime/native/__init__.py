"""The native engine: C++ that runs plans in int8 (docs/reference/native-plan.md), and the extension that holds it."""
