"""Slow numpy transcriptions of the papers, to judge the library by.

Nothing here imports sparsejax. Each file follows the text of one paper and the
rules that the project fixed where the texts leave room; the rules are stated
where they are used. Weights are float32, counts and fractions float64 or
Python integers. The one thing taken from JAX are the random bits, which both
sides must draw alike.

A network is a list of `Leaf` in tree order; leaf `i` of that list is folded
into the key as `i`, whether it is sparse or not.
"""
