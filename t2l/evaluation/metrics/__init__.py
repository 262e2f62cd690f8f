"""How an answer is scored against the right one: a file per metric (or close family), which registers itself."""
