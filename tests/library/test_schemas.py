"""The published JSON Schema files: current, valid, and of one mind with the reader about types, ranges and keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bad_documents import DOCUMENT, INSTANCES, SOLUTIONS, solution
from jsonschema import Draft202012Validator
from run_directories import solved_run
from validators import validator

import moeplace
from moeplace.base.errors import InputError
from moeplace.base.files import read_json
from moeplace.caching.bounds.concave import ConcaveBound
from moeplace.caching.saving import saving_form
from moeplace.library import BEST_KNOWN, instance_files, instances_folder, set_names
from moeplace.schemas import DOCUMENTS, generate_schema, read_schema


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_files_are_current(name: str) -> None:
    assert read_schema(name) == generate_schema(name), "run python scripts/build_schemas.py"
    Draft202012Validator.check_schema(read_schema(name))


@pytest.mark.parametrize("set_name", set_names())
def test_the_best_known_values_are_valid(set_name: str) -> None:
    validator("best_known").validate(read_json(instances_folder() / set_name / BEST_KNOWN))


@pytest.mark.parametrize("method", ["popular", "greedy", "cpsat", "auto"])
def test_solutions_are_valid(method: str) -> None:
    instance = moeplace.Instance.from_document(DOCUMENT)
    validator("solution").validate(json.loads(moeplace.solve(instance, method).to_json()))


def test_certificates_are_valid() -> None:
    instance = moeplace.Instance.from_document(DOCUMENT)
    certificate = ConcaveBound(saving_form(instance)).best.certificate()
    validator("certificate").validate(json.loads(certificate.to_json()))


def test_run_directories_are_valid(tmp_path: Path) -> None:
    run = solved_run(tmp_path / "run", instance_files("tiny")[:2], ["popular", "greedy"])
    validator("run").validate(read_json(run / "run.json"))
    lines = (run / "records.jsonl").read_text().splitlines()
    assert len(lines) == 4
    for line in lines:
        validator("record").validate(json.loads(line))


def parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


BROKEN = {
    **{f"instance-{key}": ("instance", data) for key, (data, _) in INSTANCES.items()},
    **{f"solution-{key}": ("solution", make) for key, (make, _) in SOLUTIONS.items()},
}


@pytest.mark.parametrize(("name", "data"), BROKEN.values(), ids=BROKEN.keys())
def test_the_schema_refuses_what_the_types_refuse(name: str, data: Any, request: pytest.FixtureRequest) -> None:
    document = parsed(data() if callable(data) else data)
    if document is None:
        return  # no JSON at all: nothing a schema is asked about
    try:
        msgspec.convert(document, DOCUMENTS[name][1])
        refused = False
    except msgspec.ValidationError:
        refused = True
    except UnicodeEncodeError:
        return  # half a surrogate pair, which no other reader gets to see
    if request.node.callspec.id == "instance-float-that-is-whole":
        assert refused
        return  # JSON Schema calls 2.0 an integer; the formats page says that moeplace does not
    assert validator(name).is_valid(document) != refused


def test_the_cases_test_both_answers() -> None:
    """Some cases are for the types (and so for the schema), others for what relates one part to another."""
    answers = {validator("instance").is_valid(document) for data, _ in INSTANCES.values() if (document := parsed(data))}
    assert answers == {True, False}
    assert validator("instance").is_valid(DOCUMENT)
    assert validator("solution").is_valid(json.loads(json.dumps(solution())))


def test_a_schema_that_is_not_there() -> None:
    with pytest.raises(InputError, match="no schema 'plan'; there are instance, solution, certificate"):
        read_schema("plan")
