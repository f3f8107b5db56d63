"""Before a run on many machines: what each of its processes sees."""
