"""The methods that LoRA is compared with: how their settings were chosen, and the table."""
