"""Validators of the published JSON Schema files, each made once."""

from __future__ import annotations

import functools
from typing import Any

from jsonschema import Draft202012Validator

from moeplace.schemas import read_schema

MOST_ROWS = 300
"""Activation rows of a file that are validated: a validator in Python takes a minute for the largest files."""


@functools.cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(read_schema(name))


def validate_instance(document: dict[str, Any]) -> None:
    """Validate an instance of any problem."""
    schema = {"moeplace/active-experts": "active_experts", "moeplace/serverless": "serverless"}
    if name := schema.get(document["format"]):
        validator(name).validate(document)
        return
    rows = {k: v[:MOST_ROWS] if isinstance(v, list) else v for k, v in document["activations"].items()}
    validator("instance").validate(document | {"activations": rows})
