"""Measuring sessions: latencies, memory, and the fastest schedule."""
