"""What is scored on the board: a file per contender (or close family), which registers itself and says what it needs."""
