"""The model: loaded from safetensors, made to read packed trees, asked only for the log-probs of its
targets."""
