"""Where the forms for MLX lie in an artifact."""

FILES = {"context": "mlx/fp32.safetensors", "sequence": "mlx/sequence-fp32.safetensors"}
