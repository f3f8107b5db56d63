"""Slow numpy transcriptions of the papers, independent of the library.

Nothing here imports sparsejax. Each file follows the text of one paper, plus
rules that the project fixed where the text is ambiguous; they are stated where
they apply. Weights are float32, counts and fractions float64 or Python
integers. Only the random bits come from JAX, since both sides need the same
ones.

A network is a list of `Leaf` in tree order; leaf `i` of that list is folded
into the key as `i`, whether it is sparse or not.
"""
