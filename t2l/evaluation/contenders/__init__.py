"""What is scored on the board, one file per contender."""
