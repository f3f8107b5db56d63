"""One call of `update`: the mask update and the inner optimizer step."""
