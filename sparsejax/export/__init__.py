"""Networks that are smaller and faster: what is dead is removed, not masked."""
