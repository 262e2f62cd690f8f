"""The lm-evaluation-harness on generated adapters."""
