"""Compares two files of Kubernetes objects: they are to be the same, apart from what Helm says of itself in labels, and
the namespace, which Helm is told and does not make."""

import sys

import yaml

HELMS = {"app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"}


def objects(path):
    """Every object by its kind and name."""
    with open(path, encoding="utf-8") as file:
        found = [entry for entry in yaml.safe_load_all(file) if entry]
    for entry in found:
        labels = entry["metadata"].get("labels", {})
        entry["metadata"]["labels"] = {name: value for name, value in labels.items() if name not in HELMS}
    return {(entry["kind"], entry["metadata"]["name"]): entry for entry in found if entry["kind"] != "Namespace"}


def differences(one, other, path):
    """Where two values differ, as lines."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from differences(one.get(key), other.get(key), f"{path}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other)):
            yield from differences(*pair, f"{path}[{index}]")
    elif one != other:
        yield f"{path}: {one!r} in {sys.argv[1]}, {other!r} in {sys.argv[2]}"


plain, chart = objects(sys.argv[1]), objects(sys.argv[2])
if not plain:
    sys.exit(f"{sys.argv[1]} has no objects")
found = [line for key in sorted(plain.keys() | chart.keys())
         for line in differences(plain.get(key), chart.get(key), "/".join(key))]
if found:
    sys.exit("\n".join(found))
