"""How an answer is scored against the right one."""
