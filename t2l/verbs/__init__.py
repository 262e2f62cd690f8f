"""What `t2l` does, one file per verb: its root config beside the function that runs it."""
