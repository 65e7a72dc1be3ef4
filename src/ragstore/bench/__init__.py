"""What the goals cost on this machine: ragstore, the plain LlamaIndex stack and the raw limit, measured in turn."""
