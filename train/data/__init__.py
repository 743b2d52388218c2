"""The bundled corpus and the tool that cut it."""
