"""Networks: what the engine runs and the training loop trains."""
