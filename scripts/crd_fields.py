#!/usr/bin/env python3
"""Prints the field paths of CustomResourceDefinitions, a line each: `AuthPolicy spec.rules.authentication.*.jwt.issuerUrl`.

    scripts/crd_fields.py kuadrant.io_authpolicies.yaml … >tests/data/support/fields.txt

`*` stands for a name that the user chooses, `[]` for the elements of a list. Only the newest served version counts, only
what is under `spec` (the rest is Kubernetes' own or is written by controllers), and of fields that lead back to each
other, one round. It needs PyYAML.
"""

import sys

import yaml


def walk(schema, path):
    """The paths below `path`, which has `schema`."""
    for name, field in sorted(schema.get("properties", {}).items()):
        yield f"{path}.{name}"
        yield from walk(field, f"{path}.{name}")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from walk(schema["additionalProperties"], f"{path}.*")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")


def fields(crd):
    version = [version for version in crd["spec"]["versions"] if version["served"]][-1]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for path in walk(spec, "spec"):
        yield f"{crd['spec']['names']['kind']} {path}"


def main():
    found = set()
    for name in sys.argv[1:]:
        with open(name, encoding="utf-8") as file:
            for document in yaml.safe_load_all(file):
                if document and document.get("kind") == "CustomResourceDefinition":
                    found.update(fields(document))
    print("\n".join(sorted(found)))


if __name__ == "__main__":
    main()
