"""Print what the validator of RO-Crates finds, one issue a line; run by an environment that has roc-validator.

Where there is no internet, the JSON-LD context that the library rocrate carries stands for the one of w3id.org. It
is of a later version, in which one address differs.
"""

import json
import sys
from importlib.resources import files
from types import SimpleNamespace

from rocrate_validator import models, services
from rocrate_validator.utils.http import HttpRequester

CONTEXT = json.loads((files("rocrate") / "data/ro-crate.jsonld").read_text())
CONTEXT["@context"] |= {"ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow"}


def get(_: object, url: str, **__: object) -> SimpleNamespace:
    if not url.startswith("https://w3id.org/ro/crate/1.1/context"):
        raise OSError(f"{url} is not asked for here")
    text = json.dumps(CONTEXT)
    body = {"json": lambda: CONTEXT, "text": text, "content": text.encode(), "raise_for_status": lambda: None}
    return SimpleNamespace(status_code=200, ok=True, headers={"Content-Type": "application/ld+json"}, **body)


HttpRequester.get = get
settings = services.ValidationSettings(
    rocrate_uri=sys.argv[1],
    profile_identifier="workflow-run-crate-0.5",
    requirement_severity=models.Severity.RECOMMENDED,
)
for issue in services.validate(settings).get_issues():
    print(issue.severity.name, issue.check.identifier, issue.message)
