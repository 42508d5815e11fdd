"""Lints and renders the chart with Helm's own engine; run by the interpreter of .venv-deploy, which has nothing of the project.

Reads one JSON object from stdin: {"chart", "values": [files], "set": {…}, "upgrade": bool, "namespace", "name"}; prints
{"lint": [messages], "manifests": [objects], "notes": text} or {"error": text}.
"""

import json
import sys
from typing import Any

import helm_python  # type: ignore[import-not-found]  # only in .venv-deploy
import yaml


def merged(into: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(into.get(key), dict)
        into[key] = merged(into[key], value) if both else value
    return into


def run(asked: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for path in asked["values"]:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123  one line, no project imports
            values = merged(values, yaml.safe_load(file) or {})
    values = merged(values, asked.get("set", {}))
    report = helm_python.lint(asked["chart"], values, strict=True, namespace=asked["namespace"])
    chart = helm_python.Chart.load(asked["chart"])
    try:
        rendered = chart.render(
            values,
            name=asked["name"],
            namespace=asked["namespace"],
            is_install=not asked["upgrade"],
            is_upgrade=asked["upgrade"],
        )
    except helm_python.HelmError as error:
        return {"error": str(error), "lint": report}
    notes = "\n".join(text for path, text in rendered.items() if path.endswith("NOTES.txt"))
    manifests = [
        document
        for path, text in sorted(rendered.items())
        if path.endswith((".yaml", ".yml"))
        for document in yaml.safe_load_all(text)
        if document
    ]
    return {"lint": report, "manifests": manifests, "notes": notes}


if __name__ == "__main__":
    # One interpreter for many renderings: starting Helm's engine costs more than using it.
    json.dump([run(each) for each in json.load(sys.stdin)], sys.stdout)
