"""Training: photographs to weights in one command. Nothing outside `cli` imports this package."""
