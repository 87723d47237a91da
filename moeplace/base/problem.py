"""What a problem is to all that serves every problem: a record of functions, found by :mod:`moeplace.problems`.

Nothing here is to be inherited from. Instances, decisions, costs and checkers are a problem's own; a :class:`Problem`
says where they are. A cost is an exact integer, not negative, and is minimised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from moeplace.base.certificates import AnyCertificate, Certificate, Trusted
from moeplace.base.documents import parse
from moeplace.base.registry import Method
from moeplace.base.result import Finished
from moeplace.base.text import NOTHING

Lines: TypeAlias = list[tuple[str, str]]
"""What people are shown: a label, and what is to be said under it."""


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes
    ----------
    columns : sequence of str
        Headings. ``right``: those with numbers.
    rows : sequence of sequence of str
    below : str
        A line under the table, where it is not empty.
    """

    columns: Sequence[str]
    right: Sequence[str]
    rows: Sequence[Sequence[str]]
    below: str = ""


@dataclass(frozen=True)
class Scale:
    """How the amounts of one instance stand in a table.

    Attributes
    ----------
    text : callable
        An amount, or what stands for an unknown one.
    unit : str
        Stands in the headings, such as "ms"; empty where there is none.
    per : str
        Of what, such as " per token".
    """

    text: Callable[[int | None], str] = lambda amount: NOTHING if amount is None else f"{amount:,}"
    unit: str = ""
    per: str = ""

    def said(self, amount: int | None) -> str:
        """Return an amount with its unit."""
        return " ".join(filter(None, (self.text(amount), self.unit))) + self.per

    def heading(self, what: str) -> str:
        """Return a heading with the unit."""
        return f"{what} {self.unit}".rstrip()


def _named(instance: Any) -> str:
    return str(instance.name)


def _plain_info(instance: Any) -> dict[str, Any]:
    return {"name": instance.name, "sha256": instance.sha256}


def _plain_info_lines(document: Mapping[str, Any]) -> Lines:
    return [("instance" if key == "name" else key, str(value)) for key, value in document.items()]


def _digits(instance: Any, amount: int) -> str:
    return f"{amount:,}"


def _plain_summary(instance: Any, solution: Any) -> Lines:
    below = "" if solution.reference is None else f", {solution.reference:,} as the reference"
    return [("value", f"{solution.value:,}{below}")]


@dataclass(frozen=True)
class View:
    """What people are shown of a problem; what is left out has a plain default.

    Attributes
    ----------
    headline : callable
        An instance in one line.
    cost : str
        What the cost is called.
    reference : callable
        What it is compared with, on an instance.
    scale : callable
        The :class:`Scale` of an instance's amounts.
    short, exact : callable
        One amount of an instance, in a few digits and in all of them.
    summary : callable
        ``(instance, solution)``: what comes before the gap.
    proof : callable, optional
        ``(instance, solution)``: gap and bound, where the plain lines do not say it.
    details : callable
        ``(instance, solution)``: lines and tables after it.
    info, info_lines : callable
        An instance as a JSON document, and that document as lines.
    checked : str
        What the checker recomputes.
    lost : str
        Why a cost cannot be recomputed.
    """

    headline: Callable[[Any], str] = _named
    cost: str = "value"
    reference: Callable[[Any], str] = lambda instance: "reference"
    scale: Callable[[Any], Scale] = lambda instance: Scale()
    short: Callable[[Any, int], str] = _digits
    exact: Callable[[Any, int], str] = _digits
    summary: Callable[[Any, Any], Lines] = _plain_summary
    proof: Callable[[Any, Any], Lines] | None = None
    details: Callable[[Any, Any], tuple[Lines, list[Table]]] = lambda instance, solution: ([], [])
    info: Callable[[Any], dict[str, Any]] = _plain_info
    info_lines: Callable[[Mapping[str, Any]], Lines] = _plain_info_lines
    checked: str = "value, reference, gap, status, hash"
    lost: str = "the solution names what the instance has not"


def _read_certificate(document: object) -> AnyCertificate:
    return parse(document, Certificate[Trusted])


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes
    ----------
    name : str
        What it is called where a problem is chosen.
    instance_format, solution_format : str
        ``format`` of its documents.
    methods : str
        Entry point group of its methods.
    instance_type, decision_type, solution_type : type
        Of its instances (which have ``name`` and ``sha256``), of what its methods return, of its solutions (which have
        ``value``, ``bound``, ``gap`` and ``reference`` beside the envelope, see :mod:`moeplace.base.plain`).
    from_document : callable
        An instance from its document; raises :class:`~moeplace.base.errors.InputError`.
    cost : callable
        ``(instance, decision)``: the exact cost of a decision that fits.
    check_fits : callable
        ``(instance, decision)``: raises :class:`~moeplace.base.errors.InputError` unless the decision is allowed.
    reference : callable
        ``(instance)``: a cost to compare with, or None.
    finish : callable
        ``(instance, finished)``: the solution of a finished run.
    read_solution : callable
        A solution from its document.
    decision : callable
        ``(instance, solution)``: the decision of a solution; raises an InputError where it is none of this instance.
    check : callable
        ``(instance, solution, certificate or None)``: recomputes everything, with code that shares nothing with the
        methods; returns a report with ``ok``, ``violations``, ``value``, ``reference``, ``bound``, ``document()``.
    read_certificate : callable
        A certificate from its document.
    adapt : callable
        ``(method, instance)``: what is run of a method on an instance: the method, or where the instance leaves more
        open than it knows (:attr:`moeplace.base.registry.MethodInfo.takes`), one that decides the rest beforehand.
    remarks : callable
        ``(instance)``: what a person should know of the instance itself, for a solution's details.
    sizes : callable
        ``(instance)``: what a run's document says of the instance's size, by its keys.
    method_order : sequence of str
        The order in which methods are listed; others follow by name.
    models : str, optional
        Entry point group of its formulations. Left out where no model is exported.
    model_limit : callable
        ``(instance, name)``: why a formulation of the instance is not built, or None.
    from_values : callable, optional
        ``(instance, values)``: the decision that the values of an exported model's variables mean, by their names;
        raises an InputError where they mean none of this instance. Left out where no model is exported.
    compile : callable, optional
        ``(modules, say)``: runs once what compiles the inner loops of these modules, so that no method's clock counts
        it; calls ``say()`` before, unless it knows none of them.
    view : View
    """

    name: str
    instance_format: str
    solution_format: str
    methods: str
    instance_type: type
    decision_type: type
    solution_type: type
    from_document: Callable[[object], Any]
    cost: Callable[[Any, Any], int]
    check_fits: Callable[[Any, Any], None]
    reference: Callable[[Any], int | None]
    finish: Callable[[Any, Finished], Any]
    read_solution: Callable[[object], Any]
    decision: Callable[[Any, Any], Any]
    check: Callable[[Any, Any, AnyCertificate | None], Any]
    read_certificate: Callable[[object], AnyCertificate] = _read_certificate
    adapt: Callable[[Method, Any], Method] = lambda method, instance: method
    remarks: Callable[[Any], Mapping[str, str]] = lambda instance: {}
    sizes: Callable[[Any], Mapping[str, Any]] = lambda instance: {}
    method_order: Sequence[str] = ()
    models: str | None = None
    model_limit: Callable[[Any, str], str | None] = lambda instance, name: None
    from_values: Callable[[Any, Mapping[str, float]], Any] | None = None
    compile: Callable[[Sequence[str], Callable[[], None]], None] | None = None
    view: View = field(default_factory=View)
