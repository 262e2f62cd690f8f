"""t2l: text to LoRA. From the description of a task to a LoRA adapter for a frozen language model."""

__version__ = "0.1.0"
