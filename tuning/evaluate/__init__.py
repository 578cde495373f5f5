"""Evaluation: what a model answers, whether it stops, and how it compares with the stages before it."""
