"""The solution document, the report and the checks that problems share: the common envelope around a decision.

A solution of such a problem has the keys of :class:`PlainSolution`; its decision's own keys stand beside them, and
``objective`` may hold more numbers. (Caching has documents of its own, which are older.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, ClassVar, Literal, get_type_hints

import msgspec
from msgspec import Struct

from moeplace.base.certificates import AnyCertificate, Trusted
from moeplace.base.documents import InstanceReference, Status, parse
from moeplace.base.errors import InputError, MethodError
from moeplace.base.problem import Problem, View
from moeplace.base.result import Finished, Written, relative_gap


class Objective(Struct, frozen=True):
    """The numbers of a solution, in the problem's unit; None is "not known"."""

    value: int
    bound: int | None
    gap: float | None
    reference: int | None


class PlainSolution(Written, Struct, frozen=True):
    """A solution in the common envelope.

    Attributes
    ----------
    format : str
    instance : InstanceReference
        Name and hash of the instance.
    objective : Objective
        ``value`` is what is minimised.
    status, method, picked_because, parameters, seed, threads, wall_s, bound_source, guarantee, details, versions
        As in :class:`moeplace.Solution`.
    decision : Struct
        Its keys stand beside the others in the document.
    numbers : dict
        What else ``objective`` says.
    """

    format: str
    version: Literal[1]
    instance: InstanceReference
    objective: Objective
    status: Status
    method: str | None = None
    picked_because: str | None = None
    parameters: dict[str, Any] = {}
    seed: int | None = None
    threads: int | None = None
    wall_s: float | None = None
    bound_source: str | None = None
    guarantee: str | None = None
    details: dict[str, int | float | str] = {}
    versions: dict[str, str] = {}
    decision: Any = None
    numbers: Any = None

    @property
    def value(self) -> int:
        """What the decision costs."""
        return self.objective.value

    @property
    def bound(self) -> int | None:
        """Proven lower bound on every cost."""
        return self.objective.bound

    @property
    def reference(self) -> int | None:
        """What the cost is compared with."""
        return self.objective.reference

    def document(self) -> dict[str, Any]:
        """Return the solution document as plain dicts and lists."""
        said: dict[str, Any] = msgspec.to_builtins(self)
        decision, numbers = said.pop("decision"), said.pop("numbers") or {}
        head = {key: said.pop(key) for key in ("format", "version", "instance")}
        result: dict[str, Any] = head | decision | {"objective": said.pop("objective") | numbers} | said
        return result

    def to_json(self) -> bytes:
        """Return the solution document as JSON, a line a key."""
        lines = (
            f"  {msgspec.json.encode(key).decode()}: {msgspec.json.encode(value).decode()}"
            for key, value in self.document().items()
        )
        return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def document_type(
    solution_format: str, decision_type: type[Struct], objective_type: type[Struct] = Objective
) -> type[Struct]:
    """Return the type of a problem's solution documents, of which its JSON Schema is made.

    Parameters
    ----------
    solution_format : str
    decision_type, objective_type : type of Struct
        Their keys stand beside the others, and under ``objective``.

    Examples
    --------
    >>> class Choice(Struct):
    ...     chosen: list[int]
    >>> list(msgspec.structs.fields(document_type("choices/solution", Choice)))[-1].name
    'chosen'
    """
    hints = get_type_hints(PlainSolution, include_extras=True)
    hints |= {"format": Literal[solution_format], "objective": objective_type}
    keys = [field for field in msgspec.structs.fields(PlainSolution) if field.name not in ("decision", "numbers")]
    fields: list[Any] = [(key.name, hints[key.name], *_default(key)) for key in keys]
    own = get_type_hints(decision_type, include_extras=True)
    fields += [(key.name, own[key.name], *_default(key)) for key in msgspec.structs.fields(decision_type)]
    return msgspec.defstruct("SolutionDocument", fields, frozen=True, kw_only=True)


def _default(key: msgspec.structs.FieldInfo) -> list[Any]:
    if key.default is not msgspec.NODEFAULT:
        return [key.default]
    return [] if key.default_factory is msgspec.NODEFAULT else [msgspec.field(default_factory=key.default_factory)]


@dataclass(frozen=True)
class PlainReport:
    """What a checker found.

    Attributes
    ----------
    violations : tuple of str
        Everything that is wrong, one line each; empty for a valid solution.
    value, reference : int or None
        As recomputed; None where that cannot be.
    bound : str
        "none claimed", "claimed, not verified", or what a certificate makes of it.
    proven : int or None
        The bound that the certificate proves.
    trusted : str or None
        Whose word it rests on; None where it rests on arithmetic alone.
    """

    violations: tuple[str, ...]
    value: int | None
    reference: int | None
    bound: str
    proven: int | None = None
    trusted: str | None = None
    bound_key: ClassVar[str] = "claimed_bound"
    """What the solution's bound is called beside the report's own numbers."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations

    def document(self) -> dict[str, Any]:
        """Return the report as a plain dict."""
        return {
            "ok": self.ok,
            "violations": list(self.violations),
            "value": self.value,
            "reference": self.reference,
            "bound": self.bound,
            "proven": self.proven,
            "trusted": self.trusted,
        }


def plain_problem(
    *,
    name: str,
    instance_format: str,
    solution_format: str,
    instance_type: type,
    decision_type: type[Struct],
    from_document: Callable[[object], Any],
    cost: Callable[[Any, Any], int],
    refuses: Callable[[Any, Any], str | None],
    recompute: Callable[[Any, Any], tuple[Sequence[str], int | None]],
    reference: Callable[[Any], int | None] = lambda instance: None,
    numbers: Callable[[Any, Any], Mapping[str, Any]] = lambda instance, decision: {},
    recompute_numbers: Callable[[Any, Any], Mapping[str, Any]] | None = None,
    recompute_reference: Callable[[Any], int | None] | None = None,
    verify: Callable[[Any, AnyCertificate], Sequence[str]] | None = None,
    methods: str | None = None,
    method_order: Sequence[str] = (),
    view: View | None = None,
    **others: Any,
) -> Problem:
    """Return a problem whose solutions have the common envelope.

    Parameters
    ----------
    name, instance_format, solution_format, instance_type, from_document, cost, method_order, view, others
        As in :class:`~moeplace.base.problem.Problem`.
    decision_type : type of Struct
        What methods return; its keys stand in the solution document. None of them is a key of the envelope.
    refuses : callable
        ``(instance, decision)``: why a decision is not allowed, or None.
    recompute : callable
        ``(instance, decision)``: what is wrong with a decision, a line each, and its cost (None where it has none).
        The checker's; it must share nothing with ``cost``, ``refuses`` and the methods.
    reference : callable
        ``(instance)``: a cost to compare with, or None.
    numbers : callable
        ``(instance, decision)``: what else ``objective`` says, by name; checked, too.
    recompute_numbers, recompute_reference : callable, optional
        The checker's own ``numbers`` and ``reference``, which share nothing with these; without, these are asked again.
    verify : callable, optional
        ``(instance, certificate)``: what is wrong with a certificate that is not just a solver's word.
    methods : str, optional
        Entry point group of the methods; ``moeplace.methods.NAME`` where it is left out.

    Raises
    ------
    ValueError
        A key of the decision is one of the envelope.

    Notes
    -----
    In a solution keys that nobody knows are passed over, also where the decision type itself would take no others.
    """
    envelope = set(PlainSolution.__struct_fields__) - {"decision", "numbers"}
    own = {*decision_type.__struct_encode_fields__, decision_type.__struct_config__.tag_field}
    if taken := envelope & own:
        raise ValueError(f"{sorted(taken)} of the decision are keys of every solution")

    def whole(amount: Any) -> int | None:
        """Return an amount, which may be one of numpy, as documents hold it."""
        try:
            return None if amount is None else index(amount)
        except TypeError:
            raise MethodError(f"the problem {name} says the amount {amount!r}, which is no integer") from None

    def plain(given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what else ``objective`` says, as it comes back from a document."""
        try:
            said: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(given), enc_hook=_of_numpy))
        except (TypeError, OverflowError) as error:
            raise MethodError(f"the problem {name} says numbers that cannot be written: {error}") from error
        return said

    def finish(instance: Any, run: Finished) -> PlainSolution:
        objective = Objective(run.cost, run.bound, relative_gap(run.cost, run.bound), whole(reference(instance)))
        return PlainSolution(
            format=solution_format,
            version=1,
            objective=objective,
            decision=run.decision,
            numbers=plain(numbers(instance, run.decision)),
            **run.envelope(instance),
        )

    def read(document: object) -> PlainSolution:
        said = parse(document, PlainSolution)
        if said.format != solution_format:
            raise InputError(f'expected "{solution_format}", found "{said.format}"', place="format")
        assert isinstance(document, dict)
        more = {k: v for k, v in document["objective"].items() if k not in Objective.__struct_fields__}
        chosen = {key: value for key, value in document.items() if key in own}
        return msgspec.structs.replace(said, decision=parse(chosen, decision_type), numbers=more)

    def check_fits(instance: Any, decision: Any) -> None:
        if (reason := refuses(instance, decision)) is not None:
            raise InputError(reason)

    def decision(instance: Any, solution: PlainSolution) -> Any:
        check_fits(instance, solution.decision)
        return solution.decision

    def check(instance: Any, solution: PlainSolution, certificate: AnyCertificate | None = None) -> PlainReport:
        wrong = _reference_violations(instance, solution)
        violations, recomputed = recompute(instance, solution.decision)
        wrong += violations
        said, value = solution.objective, whole(recomputed)
        known = whole((recompute_reference or reference)(instance))
        _equal("objective.reference", said.reference, known, wrong)
        if value is not None:
            _equal("objective.value", said.value, value, wrong)
            if not violations:
                others = solution.numbers or {}
                true = plain((recompute_numbers or numbers)(instance, solution.decision))
                for key, number in true.items():
                    if key not in others:
                        wrong.append(f"objective.{key}: it is missing, recomputed {number}")
                    else:
                        _equal(f"objective.{key}", others[key], number, wrong)
                for key in sorted(others.keys() - true.keys()):
                    wrong.append(f"objective.{key}: the solution says {others[key]}, which is no number of {name}")
            _check_bound(solution, value, wrong)
        claim = "none claimed" if said.bound is None else "claimed, not verified"
        if certificate is None:
            return PlainReport(tuple(wrong), value, known, claim)
        faults = []
        if certificate.instance.sha256 != instance.sha256:
            faults.append(f"it is for the instance {certificate.instance.name!r}")
        trusted = certificate.proof.source if isinstance(certificate.proof, Trusted) else None
        if trusted is None:
            faults += ["it is of another problem"] if verify is None else verify(instance, certificate)
        proven = None if faults else certificate.bound_ns
        if proven is not None and value is not None and proven > value:
            faults.append(f"it proves the bound {proven}, but this solution costs {value}")
        if proven is not None and said.bound is not None and proven < said.bound:
            faults.append(f"it proves {proven}, not the bound {said.bound} that the solution says")
        if said.bound is not None:
            known_by = "verified, trusting nothing" if trusted is None else f"proven, trusting the word of {trusted!r}"
            claim = "not proven by the certificate" if faults else known_by
        wrong += [f"certificate: {fault}" for fault in faults]
        return PlainReport(tuple(wrong), value, known, claim, proven, trusted)

    return Problem(
        name=name,
        instance_format=instance_format,
        solution_format=solution_format,
        methods=methods or f"moeplace.methods.{name}",
        instance_type=instance_type,
        decision_type=decision_type,
        solution_type=PlainSolution,
        from_document=from_document,
        cost=cost,
        check_fits=check_fits,
        reference=reference,
        finish=finish,
        read_solution=read,
        decision=decision,
        check=check,
        method_order=method_order,
        view=view or View(),
        **others,
    )


def _reference_violations(instance: Any, solution: PlainSolution) -> list[str]:
    wrong = []
    said = solution.instance
    if said.sha256 != instance.sha256:
        wrong.append(f"instance.sha256: the solution is for {said.sha256[:64]!r}, this is {instance.sha256}")
    if said.name != instance.name:
        wrong.append(f"instance.name: the solution is for {said.name!r}, this is {instance.name!r}")
    return wrong


def _of_numpy(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no number")


def _equal(place: str, said: Any, true: Any, wrong: list[str]) -> None:
    # Others may print fewer digits of what is no integer; true and false are no numbers.
    close = type(said) in (int, float) and type(true) is float and math.isclose(said, true, rel_tol=1e-9)
    if said != true and not close:
        wrong.append(f"{place}: the solution says {said}, recomputed {true}")


def _check_bound(solution: PlainSolution, value: int, wrong: list[str]) -> None:
    said, status = solution.objective, solution.status
    if said.bound is None:
        if said.gap is not None:
            wrong.append("objective.gap: there is one without a bound")
        if "optimal" in (status.solution, status.termination):
            wrong.append("status: called optimal without a bound")
        return
    if not 0 <= said.bound <= value:
        wrong.append(f"objective.bound: expected 0 to the value {value}, found {said.bound}")
        return
    gap = 0.0 if said.bound == value else (value - said.bound) / value
    _equal("objective.gap", said.gap, gap, wrong)
    if (status.solution == "optimal") != (said.bound == value):
        state = "equal" if said.bound == value else "not equal"
        wrong.append(f"status.solution: {status.solution!r}, but value and bound are {state}")
    if status.termination == "optimal" and said.bound != value:
        wrong.append("status.termination: 'optimal', but value and bound are not equal")
