"""Holds the lines of an event stream to the description: `events.py DESCRIPTION URL TOKEN LINES`."""

import json
import sys
from urllib.parse import parse_qs, urlsplit

import jsonschema_rs
import requests
import yaml


def main() -> None:
    description, url, token, wanted = sys.argv[1:]
    with open(description, encoding="utf-8") as file:
        whole = yaml.safe_load(file)
    (asked,) = whole["paths"]["/v1/events"]["get"]["parameters"]
    named = parse_qs(urlsplit(url).query)["services"]
    jsonschema_rs.Draft202012Validator(asked["schema"]).validate(*named)
    schema = {"$ref": "#/components/schemas/StreamEvent", "components": whole["components"]}
    validator = jsonschema_rs.Draft202012Validator(schema)
    headers = {"Authorization": f"Bearer {token}"}
    with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
        answer.raise_for_status()
        kinds = answer.headers["Content-Type"]
        assert kinds == "application/x-ndjson", kinds
        seen = []
        for line in answer.iter_lines():
            event = json.loads(line)
            validator.validate(event)
            seen.append(event["type"])
            print(event["type"], event["service"]["state"], flush=True)
            if len(seen) == int(wanted):
                break
    assert len(seen) == int(wanted), f"the stream ended after {seen}"


main()
