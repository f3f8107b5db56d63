"""Resolved configs as text: one in full, the differences of the others."""

import json


def compact(configs):
  """Returns the first config in full, and one line for each other config.

  Args:
    configs: resolved configs by name, at least one.

  Returns:
    JSON text.
  """
  names = list(configs)
  first = configs[names[0]]
  lines = [
    f"    {json.dumps(name)}: {json.dumps(_differences(first, configs[name]))}"
    for name in names[1:]
  ]
  whole = json.dumps(first, indent=2, sort_keys=True)
  return (
    f'{{\n  {json.dumps(names[0])}: {whole},\n  "differs": {{\n'
    + ",\n".join(lines)
    + "\n  }\n}\n"
  )


def _differences(first, config):
  """Keys with other values; a section with another name as a whole."""
  assert first.keys() == config.keys()
  found = {}
  for key, value in config.items():
    if value == first[key]:
      continue
    if isinstance(value, dict) and value["name"] == first[key]["name"]:
      found |= {
        f"{key}.{name}": item
        for name, item in value.items()
        if item != first[key][name]
      }
    else:
      found[key] = value
  return found
