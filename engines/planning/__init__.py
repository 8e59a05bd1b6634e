"""Which schedule: predicted, measured, chosen."""
