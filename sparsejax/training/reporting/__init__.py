"""What a run writes and prints: metrics, summary, events, console."""
