"""Where the native forms lie in an artifact."""

FILES = {"context": "native/int8.safetensors", "sequence": "native/sequence-int8.safetensors"}
