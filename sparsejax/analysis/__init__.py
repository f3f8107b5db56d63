"""What a sparse network is and costs: summaries and FLOPs."""
