"""Evaluation: full-size frames against their labels, in constant memory."""
