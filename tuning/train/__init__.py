"""Training: objectives as pure functions, one trainer for all of them, checkpoints that resume bit for
bit."""
